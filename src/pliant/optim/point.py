"""One point of a region inside the optimizer: its tensors and their state."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pliant.optim.account import START, open_account
from pliant.optim.gradient import gradient_of
from pliant.optim.precision import HALF, Precision
from pliant.regions.region import Region


@dataclass(frozen=True, eq=False)
class Point:
    """Parameters that are one point of a region.

    Args:
        region: where the point may be.
        names: parameter names.
        params: the parameters, `region.arity` of them.
        states: the optimizer's state of each.
        group: the hyper-parameters.
    """

    region: Region
    names: tuple[str, ...]
    params: Sequence[Tensor]
    states: Sequence[dict[str, Any]]
    group: dict[str, Any]

    @property
    def live(self) -> tuple[bool, ...]:
        """Which of the parameters have a gradient and are not frozen."""
        return tuple(gradient_of(p) is not None for p in self.params)

    @property
    def like(self) -> Tensor:
        """A tensor of the dtype that is computed in, on the device of the weights."""
        first = self.params[0].detach()
        return first.new_empty((), dtype=torch.float32) if first.dtype in HALF else first

    @property
    def precision(self) -> Precision:
        """How weights of 16 bits are kept."""
        precision: Precision = self.group["precision"]
        return precision

    def prepare(self) -> None:
        """Create the state that is missing."""
        for p, state, live in zip(self.params, self.states, self.live, strict=True):
            if "momentum_buffer" not in state and live:
                dtype = torch.float32 if p.dtype in HALF else p.dtype
                state["momentum_buffer"] = torch.zeros_like(p, dtype=dtype, memory_format=torch.preserve_format)
        if not self.states[0].keys() >= START.keys():
            open_account(self.states[0], self.like)

    def direction(self) -> list[Tensor]:
        """Return the gradients; for parameters without one the momentum, or zero."""
        triples = zip(self.params, self.states, map(gradient_of, self.params), strict=True)
        return [s.get("momentum_buffer", torch.zeros_like(p)) if grad is None else grad for p, s, grad in triples]

    def as_point(self, parts: Sequence[Tensor]) -> Any:  # noqa: ANN401  (Tensor or Sequence[Tensor], as the region takes it)
        """Return tensors as the region takes them: one tensor, or a sequence."""
        return parts[0] if self.region.arity == 1 else tuple(parts)

    def diameter(self) -> float:
        """Return the Euclidean diameter of the region."""
        shapes: Any = [tuple(p.shape) for p in self.params]
        return self.region.diameter(shapes[0] if self.region.arity == 1 else shapes)
