"""Penalties: the four weights of the objective, and how they change from sweep to sweep."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace

from pliant.bcd.errors import BCDError


@dataclass(frozen=True)
class Penalties:
    """The weights of the terms of the objective, a sum over samples: tau and alpha are relative to their number.

    Args:
        rho: of |W V + b - U|^2 / 2, positive.
        gamma: of |V - s(U)|^2 / 2, positive.
        tau: of |W - G|^2 / 2, positive.
        alpha: of the proximal terms, which are no part of the objective, positive.

    Raises:
        BCDError: if one is not positive and finite.
    """

    rho: float
    gamma: float
    tau: float
    alpha: float

    def __post_init__(self) -> None:
        for name in ("rho", "gamma", "tau", "alpha"):
            value = getattr(self, name)
            if not 0.0 < value < float("inf"):
                raise BCDError(f"{name} must be positive and finite, found {value!r}")


class Schedule(ABC):
    """Gives the penalties of every sweep. The objective only descends while they stay."""

    @abstractmethod
    def at(self, sweep: int, start: Penalties) -> Penalties:
        """Return the penalties of a sweep, counted from 0, given those that the run started with."""


@dataclass(frozen=True)
class Constant(Schedule):
    """The penalties stay."""

    def at(self, sweep: int, start: Penalties) -> Penalties:  # noqa: ARG002  (whatever the sweep)
        return start


@dataclass(frozen=True)
class Geometric(Schedule):
    """rho, gamma and tau are multiplied by their factor every `every` sweeps, at most `times` times.

    Args:
        rho: factor, positive.
        gamma: factor, positive.
        tau: factor, positive.
        every: sweeps, at least 1.
        times: at least 0.

    Raises:
        BCDError: if one is out of its range.
    """

    rho: float = 1.0
    gamma: float = 1.0
    tau: float = 1.0
    every: int = 10
    times: int = 10

    def __post_init__(self) -> None:
        for name in ("rho", "gamma", "tau"):
            if not 0.0 < getattr(self, name) < float("inf"):
                raise BCDError(f"the factor of {name} must be positive and finite, found {getattr(self, name)!r}")
        if self.every < 1 or self.times < 0:
            raise BCDError(f"every must be at least 1 and times at least 0, found {self.every} and {self.times}")

    def at(self, sweep: int, start: Penalties) -> Penalties:
        power = min(sweep // self.every, self.times)
        grown = {name: getattr(start, name) * getattr(self, name) ** power for name in ("rho", "gamma", "tau")}
        return replace(start, **grown)
