"""Views: how a tensor, or several together, is seen as a vector of non-negative magnitudes, and rebuilt from one."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from pliant.regions import entrywise, spectral
from pliant.regions.axes import Axes
from pliant.regions.gauges import Flat, Gauge, Proportional
from pliant.regions.scaling import nonzero, nonzero_length, to_unit_peak
from pliant.regions.svd import leading_triplets, singular_values
from pliant.regions.vertex import Channels, LowRank, Product, Vertex, across
from pliant.spec import register

Shape = Sequence[int]
Memory = dict[str, Any]


@dataclass(frozen=True)
class Split:
    """Tensors split into magnitudes, (*batch, n), and the map from changed magnitudes to tensors in compact form."""

    magnitudes: Tensor
    compact: Callable[[Tensor], tuple[Vertex, ...]]

    def rebuild(self, a: Tensor) -> tuple[Tensor, ...]:
        """Return the tensors of changed magnitudes."""
        return tuple(part.dense() for part in self.compact(a))


class View(ABC):
    """Splits one or more tensors into magnitudes and rebuilds them: the atoms are what compression removes.

    Every symmetric norm of the magnitudes is a norm of the tensors, and its dual norm, oracle, projection and proximal
    map lift entry by entry. The first `batch` dimensions of every tensor are batch dimensions: independent points.
    """

    @property
    @abstractmethod
    def arity(self) -> int:
        """Number of tensors that the view takes together."""

    @property
    @abstractmethod
    def batch(self) -> int:
        """Number of leading batch dimensions."""

    @property
    @abstractmethod
    def scales(self) -> tuple[float, ...]:
        """One factor per tensor: magnitudes are measured on tensors multiplied by it."""

    @abstractmethod
    def count(self, *shapes: Shape) -> int:
        """Return the number of magnitudes of tensors of these shapes, without batch dimensions."""

    @abstractmethod
    def magnitudes(self, *xs: Tensor) -> Tensor:
        """Return the magnitudes of tensors that `scales` has been applied to, shape (*batch, n)."""

    @abstractmethod
    def split(self, *xs: Tensor, leading: int) -> Split:
        """Split tensors that `scales` has been applied to; at least the `leading` largest magnitudes are present."""

    @abstractmethod
    def maximiser(self, gauge: Gauge, *xs: Tensor, memory: Memory) -> tuple[Vertex, ...]:
        """Return a v of at most unit norm that nearly maximises <v, x>, without host reads where that can be done.

        Args:
            gauge: the norm, with its counts resolved.
            xs: tensors that `scales` has been applied to, float32 or float64.
            memory: plain data kept from call to call.
        """

    @abstractmethod
    def stacked(self) -> View:
        """Return this view of points stacked along one more leading dimension."""


@register
@dataclass(frozen=True)
class Entries(View):
    """Magnitudes are absolute values; atoms are single weights."""

    batch: int = 0
    arity: int = field(default=1, init=False)
    scales: tuple[float, ...] = field(default=(1.0,), init=False)

    def __post_init__(self) -> None:
        _check_batch(self.batch)

    def count(self, *shapes: Shape) -> int:
        (shape,) = shapes
        if math.prod(shape) == 0:
            raise ValueError(f"a weight needs at least one entry, found shape {tuple(shape)}")
        return math.prod(shape)

    def magnitudes(self, *xs: Tensor) -> Tensor:
        (x,) = xs
        return x.abs().reshape(*x.shape[: self.batch], -1)

    def split(self, *xs: Tensor, leading: int) -> Split:  # noqa: ARG002  (all magnitudes are at hand)
        (x,) = xs
        return Split(self.magnitudes(x), lambda a: (Product(x.sign(), a.reshape(x.shape), self.batch, own=True),))

    def maximiser(self, gauge: Gauge, *xs: Tensor, memory: Memory) -> tuple[Vertex, ...]:
        (x,) = xs
        n = self.count(x.shape[self.batch :])
        pattern = gauge.pattern(n)
        if pattern is None:
            return exact_maximiser(self, gauge, xs)
        if pattern.count == n:
            return (entrywise.whole(x, pattern, self.batch),)
        if entrywise.can_threshold(n, pattern.count):
            return (entrywise.thresholded(x, pattern, self.batch, memory),)
        if n > entrywise.LARGE:
            return (entrywise.largest(x, pattern, self.batch),)
        return exact_maximiser(self, gauge, xs)

    def stacked(self) -> View:
        return replace(self, batch=self.batch + 1)


@register
@dataclass(frozen=True)
class Filters(View):
    """Magnitudes are the Euclidean norms of the output channels; atoms are filters, neurons, heads."""

    axes: Axes = Axes()
    batch: int = 0
    arity: int = field(default=1, init=False)
    scales: tuple[float, ...] = field(default=(1.0,), init=False)

    def __post_init__(self) -> None:
        _check_batch(self.batch)
        _check_axes(self.axes)
        if self.axes.spatial:
            raise ValueError("axes must have one row per filter, found a spatial reading")

    def count(self, *shapes: Shape) -> int:
        (shape,) = shapes
        return self.axes.channels(shape)

    def magnitudes(self, *xs: Tensor) -> Tensor:
        (x,) = xs
        matrices = self.axes.to_matrices(x, self.batch)
        rows = matrices.reshape((*x.shape[: self.batch], -1, matrices.shape[-1]))
        return torch.linalg.vector_norm(rows, dim=-1)

    def split(self, *xs: Tensor, leading: int) -> Split:  # noqa: ARG002  (all magnitudes are at hand)
        (x,) = xs
        norms = above_underflow(self.magnitudes(x))
        return Split(norms, lambda a: (self.scaled(x, ratio(a, norms)),))

    def maximiser(self, gauge: Gauge, *xs: Tensor, memory: Memory) -> tuple[Vertex, ...]:  # noqa: ARG002  (exact)
        (x,) = xs
        if math.prod(x.shape[self.batch :]) <= entrywise.LARGE:
            return exact_maximiser(self, gauge, xs)
        found = self.magnitudes(x)
        norms = in_range(found)
        pattern = gauge.pattern(norms.shape[-1])
        alone = norms.numel() == norms.shape[-1]  # channels of several points cannot be chosen by one index
        if pattern is None or 2 * pattern.count > norms.shape[-1] or self.axes.out != 0 or not alone:
            a = gauge.vertex(to_unit_peak([norms], self.batch)[0][0])
            return (self.scaled(x, ratio(a, norms)),)
        top, index = norms.reshape(-1).topk(pattern.count)
        rows = x[(0,) * self.batch]
        factors = across(channel_factors(top, pattern), rows.ndim)
        asked = torch.linalg.vector_norm(found, dim=-1)
        return (Channels(index, rows.index_select(0, index), factors, rows.shape, self.batch, asked),)

    def scaled(self, x: Tensor, factors: Tensor) -> Product:
        """Return the tensor with every channel multiplied by its factor, (*batch, channels)."""
        return Product(x, self.axes.over_channels(factors, x.shape[self.batch :], self.batch), self.batch)

    def stacked(self) -> View:
        return replace(self, batch=self.batch + 1)


@register
@dataclass(frozen=True)
class Singular(View):
    """Magnitudes are the singular values of the weight as a matrix; atoms are rank-one terms.

    With several groups the singular values of all blocks are one vector of magnitudes.
    """

    axes: Axes = Axes()
    batch: int = 0
    arity: int = field(default=1, init=False)
    scales: tuple[float, ...] = field(default=(1.0,), init=False)

    def __post_init__(self) -> None:
        _check_batch(self.batch)
        _check_axes(self.axes)

    def count(self, *shapes: Shape) -> int:
        (shape,) = shapes
        groups, rows, cols = self.axes.matrix_shape(shape)
        return groups * min(rows, cols)

    def magnitudes(self, *xs: Tensor) -> Tensor:
        (x,) = xs
        return singular_values(self.axes.to_matrices(x, self.batch)).flatten(self.batch)

    def split(self, *xs: Tensor, leading: int) -> Split:
        (x,) = xs
        matrices = self.axes.to_matrices(x, self.batch)
        left, values, right = leading_triplets(matrices, min(leading, *matrices.shape[-2:]))
        # Directions at rounding level carry no information; without this, a rank-one gradient yields unit-sized noise.
        floor = torch.finfo(x.dtype).eps * max(matrices.shape[-2:]) * values.amax((-2, -1), keepdim=True)
        values = torch.where(values > floor, values, 0.0)

        def compact(a: Tensor) -> tuple[Vertex]:
            return (self._low_rank(left * a.reshape(values.shape).unsqueeze(-2), right, x),)

        return Split(values.flatten(self.batch), compact)

    def maximiser(self, gauge: Gauge, *xs: Tensor, memory: Memory) -> tuple[Vertex, ...]:
        (x,) = xs
        n = self.count(x.shape[self.batch :])
        pattern = gauge.pattern(n)
        if n == 1 or pattern == Proportional(n):  # one singular value, or all of them: the Frobenius norm
            return (entrywise.whole(x, Proportional(n), self.batch),)
        if pattern is None:
            return exact_maximiser(self, gauge, xs)
        left, right = spectral.leading_product(self.axes.to_matrices(x, self.batch), pattern, memory)
        return (self._low_rank(left, right, x),)

    def stacked(self) -> View:
        return replace(self, batch=self.batch + 1)

    def _low_rank(self, left: Tensor, right: Tensor, x: Tensor) -> LowRank:
        return LowRank(left, right, self.axes, x.shape[self.batch :])


def channel_factors(top: Tensor, pattern: Proportional | Flat) -> Tensor:
    """Return what channels of these norms, in descending order, are multiplied by: one factor each, or one for all.

    Args:
        top: shape (*batch, k), zero where there are fewer.
        pattern: how channels are weighed.

    Returns:
        shape (*batch, k) or (*batch, 1).
    """
    if isinstance(pattern, Flat):
        return ratio(torch.ones_like(top), top)
    peak = nonzero(top[..., :1])
    unit = top / peak  # squares of tiny or huge norms leave the range of the dtype
    # One after the other: the product of the smallest divisors is 0, and what is chosen of a zero gradient 0 / 0.
    return unit[..., :1] / peak / nonzero_length(torch.linalg.vector_norm(unit, dim=-1, keepdim=True))


def exact_maximiser(view: View, gauge: Gauge, xs: Sequence[Tensor]) -> tuple[Vertex, ...]:
    """Return the exact maximiser of <v, x> over the unit ball."""
    parts, _ = to_unit_peak(xs, view.batch)
    n = view.count(*[part.shape[view.batch :] for part in parts])
    split = view.split(*parts, leading=gauge.leading(n))
    return split.compact(gauge.vertex(split.magnitudes))


def above_underflow(norms: Tensor) -> Tensor:
    """Return the norms, those whose squares leave the normal range replaced by 0.

    Such a norm is mostly rounding error, and a channel divided by it is no unit vector: in float32 a filter of
    norm 4.5e-23 beside one of norm 1 came out 20 % too long. NaN stays NaN.
    """
    limits = torch.finfo(norms.dtype)
    return norms.masked_fill(norms < math.sqrt(limits.tiny / limits.eps), 0.0)


def in_range(norms: Tensor) -> Tensor:
    """Return norms of tensors whose squares may have left the range of the dtype: 0 where they have."""
    return above_underflow(norms.nan_to_num(0.0, 0.0))


def ratio(new: Tensor, old: Tensor) -> Tensor:
    """Return new / old, 0 where the old is 0."""
    return torch.where(old > 0, new / nonzero(old), 0.0)


def _check_batch(batch: object) -> None:
    if not isinstance(batch, int) or batch < 0:
        raise ValueError(f"batch must be a number of dimensions >= 0, found {batch!r}")


def _check_axes(axes: object) -> None:
    if not isinstance(axes, Axes):
        raise TypeError(f"axes must be an Axes, found {axes!r}")
