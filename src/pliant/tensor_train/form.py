"""Form: the shapes of a train in the place of a weight, without its values."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

from pliant.tensor_train.errors import TrainError
from pliant.tensor_train.modes import Modes
from pliant.tensor_train.train import admissible, entries


@dataclass(frozen=True)
class Form:
    """A weight's shape, its modes and the ranks of its train.

    Args:
        shape: (out, in) or (out, in, kh, kw).
        modes: how the weight is read as a tensor.
        ranks: (r_1, ..., r_{m-1}).

    Raises:
        TrainError: if the ranks are not one for each bond and admissible, or the weight does not fit into the modes.
    """

    shape: tuple[int, ...]
    modes: Modes
    ranks: tuple[int, ...]

    def __post_init__(self) -> None:
        allowed = admissible(self.modes.sizes, self.ranks)
        if allowed != tuple(self.ranks):
            raise TrainError(
                f"ranks of a train of sizes {self.modes.sizes} must not be more than the cores beside them can use, "
                f"{allowed}, found {tuple(self.ranks)}"
            )
        if any(full < size for full, size in zip(self.modes.channels(self.shape), self.shape[:2], strict=True)):
            raise TrainError(f"a weight of shape {self.shape} does not fit into {self.modes}")

    @property
    def cores(self) -> list[tuple[int, int, int]]:
        """Return the shapes of the cores."""
        return [(a, n, b) for (a, b), n in zip(pairwise((1, *self.ranks, 1)), self.modes.sizes, strict=True)]

    @property
    def entries(self) -> int:
        """Return how many numbers the cores hold."""
        return entries(self.modes.sizes, self.ranks)

    @property
    def pointwise(self) -> bool:
        """Tell whether it is a kernel with a window of one place: a stride then leaves out pixels that no one reads."""
        return len(self.shape) > 2 and math.prod(self.shape[2:]) == 1

    @property
    def padded(self) -> tuple[int, ...]:
        """Return the shape of the weight with the zeros that continue it."""
        return (*self.modes.channels(self.shape), *self.shape[2:])
