"""Operator: a layer with weights as a linear operator of its inputs, and as one of its weights."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor, nn

from pliant.bcd.maps import FixedMaps


class Solved(NamedTuple):
    """A new block of activations v, and A v + b where that came with it at less than its price."""

    v: Tensor
    reached: Tensor | None = None


class Goal(ABC):
    """The problem of a block of activations, prepared for the weights as they are.

    minimise rho |A v + b - u|^2 / 2 + weight |v - a|^2 / 2, sample by sample.
    """

    @abstractmethod
    def solve(self, a: Tensor, u: Tensor, start: Tensor) -> Solved:
        """Return the minimiser, or a point where the objective is lower than at the start.

        Args:
            a: what v should be.
            u: what A v + b should be.
            start: v as it is.
        """


class Operator(ABC):
    """A v = W B v of a layer's weight W and the fixed maps B before it; final dataclasses below."""

    name: str
    module: nn.Linear | nn.Conv2d
    maps: FixedMaps

    @abstractmethod
    def apply(self, v: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Return A v + b."""

    @abstractmethod
    def adjoint(self, r: Tensor, weight: Tensor, shape: Sequence[int]) -> Tensor:
        """Return A^T r for samples v of a shape."""

    @abstractmethod
    def features(self, v: Tensor) -> Tensor:
        """Return F, shape (rows, p), with A v = F W^T, W flattened to (out, p)."""

    @abstractmethod
    def rows(self, r: Tensor) -> Tensor:
        """Return what is shaped like A v as rows, shape (rows, out), in the order of `features`."""

    @abstractmethod
    def goal(self, shape: Sequence[int], *, rho: float, weight: float) -> Goal:
        """Prepare the problem of the activations that the layer reads.

        Args:
            shape: of one sample of v.
            rho: positive.
            weight: positive.
        """
