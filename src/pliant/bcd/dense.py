"""Dense: a Linear layer, whose block of activations is solved exactly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch.nn.functional as F
from torch import Tensor, nn

from pliant.bcd.maps import FixedMaps
from pliant.bcd.moments import factored, gram, solve, solve_rows
from pliant.bcd.operator import Goal, Operator, Solved


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
        outputs = self.module.out_features
        matrix = self.maps.adjoint(self.module.weight, (outputs, *shape)).flatten(1)  # the maps folded into the weight
        if 2 * outputs <= matrix.shape[1]:
            return _FewOutputs(self, matrix, rho, weight, factored(_system(matrix.mT, rho, weight), self._where))
        return _AnyOutputs(self, self._gain(matrix, rho, weight))

    def _gain(self, matrix: Tensor, rho: float, weight: float) -> Tensor:
        """Return rho (rho A A^T + weight I)^-1 A, or rho A (rho A^T A + weight I)^-1 if that system is smaller."""
        if len(matrix) <= matrix.shape[1]:
            return rho * solve(_system(matrix.mT, rho, weight), matrix, self._where)
        return rho * solve(_system(matrix, rho, weight), matrix.mT, self._where).mT

    @property
    def _where(self) -> str:
        return f"{self.name}: the activations that it reads"


@dataclass(frozen=True, eq=False)
class _AnyOutputs(Goal):
    """v = a + K (u - A a - b) with K = rho A^T (rho A A^T + weight I)^-1; here transposed, samples are rows."""

    operator: Dense
    gain: Tensor

    def solve(self, a: Tensor, u: Tensor, start: Tensor) -> Solved:  # noqa: ARG002  (it is exact without)
        return Solved(a + (_missing(self.operator, a, u) @ self.gain).view_as(a))


@dataclass(frozen=True, eq=False)
class _FewOutputs(Goal):
    """v = a + rho A^T z with (rho A A^T + weight I) z = u - A a - b; then A v + b = u - weight z.

    z has the size of u. Where u is half of v or less, finding z costs less than A v, which it gives.
    """

    operator: Dense
    matrix: Tensor
    rho: float
    weight: float
    factor: Tensor

    def solve(self, a: Tensor, u: Tensor, start: Tensor) -> Solved:  # noqa: ARG002  (it is exact without)
        z = solve_rows(self.factor, _missing(self.operator, a, u))
        return Solved(a + self.rho * (z @ self.matrix).view_as(a), u - self.weight * z)


def _missing(operator: Dense, a: Tensor, u: Tensor) -> Tensor:
    return u - operator.apply(a, operator.module.weight, operator.module.bias)


def _system(columns: Tensor, rho: float, weight: float) -> Tensor:
    """Return rho C^T C + weight I."""
    system = rho * gram(columns)
    system.diagonal().add_(weight)
    return system
