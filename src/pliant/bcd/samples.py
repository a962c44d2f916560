"""Samples: what is known of every sample, the auxiliary blocks U and V among it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, eq=False)
class Samples:
    """The blocks that belong to samples, the samples first; parts are views, written in place.

    Args:
        activations: V_0, the network's input, then V_1 to V_L.
        linear: U_1 to U_L.
        target: of the loss.
    """

    activations: tuple[Tensor, ...]
    linear: tuple[Tensor, ...]
    target: Tensor

    def __len__(self) -> int:
        return len(self.target)

    def part(self, rows: slice) -> Samples:
        """Return some of the samples."""
        return Samples(tuple(v[rows] for v in self.activations), tuple(u[rows] for u in self.linear), self.target[rows])

    def rows(self, size: int) -> Iterator[slice]:
        """Yield where parts of up to `size` samples are."""
        for start in range(0, len(self), size):
            yield slice(start, start + size)

    def parts(self, size: int) -> Iterator[Samples]:
        """Yield all samples, up to `size` at a time."""
        for rows in self.rows(size):
            yield self.part(rows)
