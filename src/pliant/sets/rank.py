"""RankSet: weights of bounded rank, read as matrices with one row per output channel."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pliant.regions.svd import leading_triplets
from pliant.sets.weight_set import Point, SetError, WeightSet, check_weight
from pliant.spec import register


@register
@dataclass(frozen=True)
class RankSet(WeightSet):
    """{G : rank(G) <= r}, G read as a matrix of shape (out, in * kh * kw).

    The projection is the truncated singular value decomposition, which is exact. The factors of a point are U and
    diag(s) V^T of shapes (out, r) and (r, in * kh * kw), U with orthonormal columns.

    Args:
        rank: r, at least 1; no weight has a rank above its shorter side.

    Raises:
        SetError: if the rank is no count of at least 1.

    Reference: Eckart, Young (1936).
    """

    rank: int

    def __post_init__(self) -> None:
        if isinstance(self.rank, bool) or not isinstance(self.rank, int) or self.rank < 1:
            raise SetError(f"rank must be a count of at least 1, found {self.rank!r}")

    def project(self, weight: Tensor, near: Point | None = None) -> Point:  # noqa: ARG002  (it is exact without)
        matrix = check_weight(weight).flatten(1)
        left, values, right = leading_triplets(matrix, min(self.rank, *matrix.shape))
        factors = (left, values[:, None] * right)
        return Point((factors[0] @ factors[1]).reshape(weight.shape).to(weight.dtype), factors)

    def size(self, shape: Sequence[int]) -> int:
        rows, columns = shape[0], math.prod(shape[1:])
        return min(self.rank, rows, columns) * (rows + columns)

    def tangent(self, point: Point, residual: Tensor) -> Tensor:
        """Return P r + r Q - P r Q, P and Q the projections onto the column space and the row space of the point."""
        left, right = point.factors
        rows: Tensor = torch.linalg.qr(right.mT)[0]
        matrix = residual.flatten(1).to(left.dtype)
        inside = left @ (left.mT @ matrix)
        beside = (matrix - inside) @ rows @ rows.mT
        return (inside + beside).reshape(residual.shape).to(residual.dtype)
