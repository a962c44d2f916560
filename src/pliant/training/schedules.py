"""Learning-rate schedules over a whole run, one factor a batch, for every group of its own."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch.optim.lr_scheduler import LambdaLR

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch.optim import Optimizer


class Schedule(ABC):
    """A factor on the learning rate as training goes on."""

    @abstractmethod
    def factor(self, done: float) -> float:
        """Return the factor after a share `done` in [0, 1] of the run."""


@dataclass(frozen=True)
class Constant(Schedule):
    """Always 1."""

    def factor(self, done: float) -> float:  # noqa: ARG002  (constant)
        """Return 1."""
        return 1.0


@dataclass(frozen=True)
class Linear(Schedule):
    """Falls linearly from 1 to 0."""

    def factor(self, done: float) -> float:
        """Return ``1 - done``."""
        return 1.0 - done


@dataclass(frozen=True)
class Cosine(Schedule):
    """Falls from 1 to 0 along half a cosine."""

    def factor(self, done: float) -> float:
        """Return ``(1 + cos(pi done)) / 2``."""
        return 0.5 * (1.0 + math.cos(math.pi * done))


@dataclass(frozen=True)
class WarmCosine(Schedule):
    """Rises linearly to 1 over the first twentieth of the run, then falls to 0 along half a cosine.

    Args:
        warm: that part, a share of the run in (0, 1).

    Raises:
        ValueError: if it is no such share.
    """

    warm: float = 0.05

    def __post_init__(self) -> None:
        if not 0.0 < self.warm < 1.0:
            raise ValueError(f"warm must be a share of the run, 0 < warm < 1, found {self.warm!r}")

    def factor(self, done: float) -> float:
        """Return ``done / warm`` first, then the cosine of what is left."""
        if done < self.warm:
            return done / self.warm
        return Cosine().factor((done - self.warm) / (1.0 - self.warm))


def scheduler_for(optimizer: Optimizer, schedules: Sequence[Schedule], steps: int) -> LambdaLR:
    """Return a torch scheduler, to be stepped after every batch.

    The factor of step ``i`` in ``0 ... steps - 1`` is ``factor(i / steps)``: the first step has that of the start,
    that of the end is reached just after the last.

    Args:
        optimizer: whose groups' learning rates are driven.
        schedules: one for every parameter group.
        steps: of the whole run, at least 1.
    """
    return LambdaLR(optimizer, [_at_step(schedule, steps) for schedule in schedules])


def _at_step(schedule: Schedule, steps: int) -> Callable[[int], float]:
    return lambda step: schedule.factor(min(step / steps, 1.0))
