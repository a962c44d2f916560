"""Sparse sets: single entries, whole filters, or n of every m entries stay; the others are zero."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from pliant.compress.atoms import lowest
from pliant.regions.gauges import TopK
from pliant.sets.weight_set import Point, SetError, WeightSet, check_weight
from pliant.spec import register


@register
@dataclass(frozen=True)
class SparseSet(WeightSet):
    """{G : at most k entries of G are not zero}.

    The projection keeps the k entries of largest magnitude, of equal ones the last. The factors of a point are their
    values and their places in the flattened weight.

    Args:
        k: an int is a count, a float in (0, 1] a fraction of the entries.

    Raises:
        SetError: if k is neither.
    """

    k: int | float
    counted: bool = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "counted", isinstance(self.k, int))
        _count(self.k, 1)

    def project(self, weight: Tensor, near: Point | None = None) -> Point:  # noqa: ARG002  (it is exact without)
        plain = check_weight(weight)
        return _keep(weight, _largest(plain.abs().flatten(), self.k).reshape(weight.shape))

    def size(self, shape: Sequence[int]) -> int:
        return _count(self.k, math.prod(shape))

    def tangent(self, point: Point, residual: Tensor) -> Tensor:
        return _on_support(point, residual)


@register
@dataclass(frozen=True)
class FilterSparseSet(WeightSet):
    """{G : at most k filters of G, its slices along the output channels, are not zero}.

    The projection keeps the k filters of largest Euclidean norm. The factors of a point are as those of `SparseSet`.

    Args:
        k: an int is a count, a float in (0, 1] a fraction of the filters.

    Raises:
        SetError: if k is neither.
    """

    k: int | float
    counted: bool = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "counted", isinstance(self.k, int))
        _count(self.k, 1)

    def project(self, weight: Tensor, near: Point | None = None) -> Point:  # noqa: ARG002  (it is exact without)
        norms: Tensor = torch.linalg.vector_norm(check_weight(weight).flatten(1), dim=1)
        kept = _largest(norms, self.k)
        return _keep(weight, kept.reshape(-1, *[1] * (weight.ndim - 1)).expand(weight.shape))

    def size(self, shape: Sequence[int]) -> int:
        return _count(self.k, shape[0]) * math.prod(shape[1:])

    def tangent(self, point: Point, residual: Tensor) -> Tensor:
        return _on_support(point, residual)


@register
@dataclass(frozen=True)
class NMSparseSet(WeightSet):
    """{G : of every m entries in a row along the inputs, at most n are not zero}, such as the 2:4 of GPUs.

    For a kernel the m entries belong to one output channel, one place in the window and m input channels. Where m
    does not divide the number of inputs, the last entries make a shorter run, of which n may stay as well.

    Args:
        n: entries that stay, 1 <= n <= m.
        m: length of a run, at least 1.

    Raises:
        SetError: if not 1 <= n <= m.
    """

    n: int
    m: int

    def __post_init__(self) -> None:
        whole = all(isinstance(value, int) and not isinstance(value, bool) for value in (self.n, self.m))
        if not whole or not 1 <= self.n <= self.m:
            raise SetError(f"n and m must be counts with 1 <= n <= m, found n={self.n!r} and m={self.m!r}")

    def project(self, weight: Tensor, near: Point | None = None) -> Point:  # noqa: ARG002  (it is exact without)
        magnitudes = check_weight(weight).abs().movedim(1, -1)
        inputs = magnitudes.shape[-1]
        runs = F.pad(magnitudes, (0, -inputs % self.m), value=-1.0).unflatten(-1, (-1, self.m))
        places = runs.topk(self.n, dim=-1).indices
        kept = torch.zeros_like(runs, dtype=torch.bool).scatter_(-1, places, value=True)
        return _keep(weight, kept.flatten(-2)[..., :inputs].movedim(-1, 1))

    def size(self, shape: Sequence[int]) -> int:
        runs, rest = divmod(shape[1], self.m)
        return math.prod(shape) // shape[1] * (runs * self.n + min(rest, self.n))

    def tangent(self, point: Point, residual: Tensor) -> Tensor:
        return _on_support(point, residual)


def _count(k: float, n: int) -> int:
    try:
        return TopK(k).leading(n)
    except ValueError as error:
        raise SetError(str(error)) from error


def _largest(magnitudes: Tensor, k: float) -> Tensor:
    return ~lowest(magnitudes, len(magnitudes) - _count(k, len(magnitudes)))


def _keep(weight: Tensor, kept: Tensor) -> Point:
    dense = torch.where(kept, weight.detach(), 0.0)
    places = kept.flatten().nonzero().flatten()
    return Point(dense, (dense.flatten()[places], places))


def _on_support(point: Point, residual: Tensor) -> Tensor:
    places = point.factors[1]
    flat = residual.flatten()
    return torch.zeros_like(flat).index_copy(0, places, flat[places]).reshape(residual.shape)
