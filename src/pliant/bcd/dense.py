"""Dense: a Linear layer, whose block of activations is solved exactly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pliant.bcd.maps import FixedMaps
from pliant.bcd.moments import gram, solve
from pliant.bcd.operator import Goal, Operator


@final
@dataclass(frozen=True, eq=False)
class Dense(Operator):
    """A Linear layer behind fixed maps.

    Args:
        name: qualified.
        module: the layer.
        maps: before it.
    """

    name: str
    module: nn.Linear
    maps: FixedMaps

    def apply(self, v: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.linear(self.maps.apply(v), weight, bias)

    def adjoint(self, r: Tensor, weight: Tensor, shape: Sequence[int]) -> Tensor:
        return self.maps.adjoint(r @ weight, (len(r), *shape))

    def features(self, v: Tensor) -> Tensor:
        return self.maps.apply(v)

    def rows(self, r: Tensor) -> Tensor:
        return r

    def goal(self, shape: Sequence[int], *, rho: float, weight: float) -> Goal:
        matrix = self.maps.adjoint(self.module.weight, (self.module.out_features, *shape)).flatten(
            1
        )  # the maps folded into the weight
        return _DenseGoal(self, _gain(matrix, rho, weight, self.name))


@dataclass(frozen=True, eq=False)
class _DenseGoal(Goal):
    """v = a + K (u - A a - b) with K = rho A^T (rho A A^T + weight I)^-1; here transposed, samples are rows."""

    operator: Dense
    gain: Tensor

    def solve(self, a: Tensor, u: Tensor, start: Tensor) -> Tensor:  # noqa: ARG002  (it is exact without)
        module = self.operator.module
        missing = u - self.operator.apply(a, module.weight, module.bias)
        return a + (missing @ self.gain).view_as(a)


def _gain(matrix: Tensor, rho: float, weight: float, name: str) -> Tensor:
    """Return rho (rho A A^T + weight I)^-1 A, or rho A (rho A^T A + weight I)^-1 if that system is smaller."""
    outputs, inputs = matrix.shape
    where = f"{name}: the activations that it reads"
    if outputs <= inputs:
        return rho * solve(_shifted(gram(matrix.mT), rho, weight), matrix, where)
    return rho * solve(_shifted(gram(matrix), rho, weight), matrix.mT, where).mT


def _shifted(matrix: Tensor, rho: float, weight: float) -> Tensor:
    return rho * matrix + weight * torch.eye(len(matrix), dtype=matrix.dtype, device=matrix.device)
