"""Activations: elementwise functions, their proximal problem and its stationarity."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from pliant.bcd.errors import BCDError


class Activation(ABC):
    """An elementwise function s."""

    @abstractmethod
    def apply(self, u: Tensor) -> Tensor:
        """Return s(u)."""

    @abstractmethod
    def prox(self, a: Tensor, b: Tensor, g: float) -> Tensor:
        """Return a global minimiser of (s(u) - a)^2 / 2 + g (u - b)^2 / 2, entry by entry.

        Args:
            a: what s(u) should be.
            b: what u should be.
            g: how much more the second counts than the first, positive.
        """

    @abstractmethod
    def stationarity(self, u: Tensor, v: Tensor, slope: Tensor, gamma: float) -> Tensor:
        """Return the element of least magnitude of slope + gamma d/du (v - s(u))^2 / 2, the limiting subdifferential.

        Args:
            u: where.
            v: what s(u) should be.
            slope: the derivative of all other terms by u.
            gamma: weight of the term.
        """


@dataclass(frozen=True)
class Identity(Activation):
    """s(u) = u."""

    def apply(self, u: Tensor) -> Tensor:
        return u

    def prox(self, a: Tensor, b: Tensor, g: float) -> Tensor:
        return (a + g * b) / (1.0 + g)

    def stationarity(self, u: Tensor, v: Tensor, slope: Tensor, gamma: float) -> Tensor:
        return slope + gamma * (u - v)


@dataclass(frozen=True)
class Rectifier(Activation):
    """s(u) = u for u >= 0 and slope * u below: ReLU at slope 0, leaky ReLU above.

    Each of the two pieces leaves a quadratic on a half-line, whose minimiser is clipped to it; the better one wins, and
    the negative one wins a tie.

    Args:
        slope: of the negative half, in [0, 1).

    Raises:
        BCDError: if the slope is outside.
    """

    slope: float = 0.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.slope < 1.0:
            raise BCDError(f"the slope of a leaky ReLU must be in [0, 1), found {self.slope!r}")

    def apply(self, u: Tensor) -> Tensor:
        return torch.where(u >= 0.0, u, self.slope * u) if self.slope else u.clamp(min=0.0)

    def prox(self, a: Tensor, b: Tensor, g: float) -> Tensor:
        pull = g * b
        above = ((a + pull) / (1.0 + g)).clamp_(min=0.0)
        below = ((self.slope * a + pull) / (self.slope**2 + g)).clamp_(max=0.0) if self.slope else b.clamp(max=0.0)
        better = _cost(above, above, a, b, g) < _cost(below, self.slope * below, a, b, g)
        return torch.where(better, above, below)

    def stationarity(self, u: Tensor, v: Tensor, slope: Tensor, gamma: float) -> Tensor:
        right, left = slope + gamma * (u - v), slope + gamma * self.slope * (self.slope * u - v)
        return torch.where(u > 0.0, right, torch.where(u < 0.0, left, _at_the_kink(v, left, right)))


def _cost(u: Tensor, out: Tensor, a: Tensor, b: Tensor, g: float) -> Tensor:
    return (out - a).square_().add_((u - b).square_(), alpha=g)


def _at_the_kink(v: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """Return the least element of {left, right}, or of the interval between them where the kink is convex (v < 0)."""
    least = torch.where(left.abs() <= right.abs(), left, right)
    return torch.where((v < 0.0) & (left * right < 0.0), 0.0, least)
