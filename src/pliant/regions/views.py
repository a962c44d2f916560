"""Views: how a tensor, or several together, is seen as a vector of non-negative magnitudes, and rebuilt from one."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import torch
from torch import Tensor

from pliant.regions.axes import Axes
from pliant.regions.svd import leading_triplets, singular_values
from pliant.spec import register

Shape = Sequence[int]
T = TypeVar("T")


@dataclass(frozen=True)
class Split:
    """Tensors split into magnitudes, (*batch, n), and the map that rebuilds tensors from changed magnitudes."""

    magnitudes: Tensor
    rebuild: Callable[[Tensor], tuple[Tensor, ...]]


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
        return Split(self.magnitudes(x), lambda a: (a.reshape(x.shape) * x.sign(),))


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

    def count(self, *shapes: Shape) -> int:
        (shape,) = shapes
        return self.axes.channels(shape)

    def magnitudes(self, *xs: Tensor) -> Tensor:
        (x,) = xs
        rows = self.axes.to_matrices(x, self.batch).flatten(self.batch, self.batch + 1)
        return torch.linalg.vector_norm(rows, dim=-1)

    def split(self, *xs: Tensor, leading: int) -> Split:  # noqa: ARG002  (all magnitudes are at hand)
        (x,) = xs
        norms = _above_underflow(self.magnitudes(x))
        return Split(norms, lambda a: (self.scaled(x, _ratio(a, norms)),))

    def scaled(self, x: Tensor, factors: Tensor) -> Tensor:
        """Return the tensor with every channel multiplied by its factor, (*batch, channels)."""
        matrices = self.axes.to_matrices(x, self.batch)
        rows = factors.reshape(*matrices.shape[:-1], 1)
        return self.axes.from_matrices(matrices * rows, x.shape[self.batch :], self.batch)


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

        def rebuild(a: Tensor) -> tuple[Tensor]:
            product = (left * a.reshape(values.shape).unsqueeze(-2)) @ right
            return (self.axes.from_matrices(product, x.shape[self.batch :], self.batch),)

        return Split(values.flatten(self.batch), rebuild)


@register
@dataclass(frozen=True)
class Joint(View):
    """Several views together: one gauge on the concatenated magnitudes.

    Args:
        members: views, each over its own tensors, taken in order.
    """

    members: tuple[View, ...]

    def __post_init__(self) -> None:
        _check_members(self.members)

    @property
    def arity(self) -> int:
        return sum(view.arity for view in self.members)

    @property
    def batch(self) -> int:
        return self.members[0].batch

    @property
    def scales(self) -> tuple[float, ...]:
        return tuple(scale for view in self.members for scale in view.scales)

    def count(self, *shapes: Shape) -> int:
        return sum(view.count(*part) for view, part in _deal(self.members, shapes))

    def magnitudes(self, *xs: Tensor) -> Tensor:
        return torch.cat([view.magnitudes(*part) for view, part in _deal(self.members, xs)], dim=-1)

    def split(self, *xs: Tensor, leading: int) -> Split:
        splits = [view.split(*part, leading=leading) for view, part in _deal(self.members, xs)]
        sizes = [split.magnitudes.shape[-1] for split in splits]

        def rebuild(a: Tensor) -> tuple[Tensor, ...]:
            parts = a.split(sizes, dim=-1)
            return tuple(x for split, part in zip(splits, parts, strict=True) for x in split.rebuild(part))

        return Split(torch.cat([split.magnitudes for split in splits], dim=-1), rebuild)


@register
@dataclass(frozen=True)
class Coupled(View):
    """Atom i is channel i of every member together; its magnitude is the Euclidean norm over all of them.

    This is the atom that removing a channel takes out: the filter, its bias, its norm scale and shift.

    Args:
        members: `Filters` views of one tensor each, all with the same number of channels.
    """

    members: tuple[Filters, ...]

    def __post_init__(self) -> None:
        _check_members(self.members)
        if not all(isinstance(view, Filters) for view in self.members):
            raise ValueError(f"members of Coupled must be Filters views, found {self.members!r}")

    @property
    def arity(self) -> int:
        return len(self.members)

    @property
    def batch(self) -> int:
        return self.members[0].batch

    @property
    def scales(self) -> tuple[float, ...]:
        return (1.0,) * len(self.members)

    def count(self, *shapes: Shape) -> int:
        counts = [view.count(shape) for view, shape in zip(self.members, shapes, strict=True)]
        if len(set(counts)) != 1:
            raise ValueError(f"coupled tensors must have equally many channels, found {counts}")
        return counts[0]

    def magnitudes(self, *xs: Tensor) -> Tensor:
        norms = [view.magnitudes(x) for view, x in zip(self.members, xs, strict=True)]
        return torch.linalg.vector_norm(torch.stack(norms), dim=0)

    def split(self, *xs: Tensor, leading: int) -> Split:  # noqa: ARG002  (all magnitudes are at hand)
        norms = _above_underflow(self.magnitudes(*xs))

        def rebuild(a: Tensor) -> tuple[Tensor, ...]:
            factors = _ratio(a, norms)
            return tuple(view.scaled(x, factors) for view, x in zip(self.members, xs, strict=True))

        return Split(norms, rebuild)


@register
@dataclass(frozen=True)
class Scaled(View):
    """A view of tensors multiplied by fixed positive factors, so that large tensors do not drown small ones.

    Norm, dual norm and oracle are exact; lengths and therefore projections are measured in the scaled tensors.

    Args:
        view: the view of the scaled tensors.
        factors: one positive factor per tensor, for example one over its initial norm.
    """

    view: View
    factors: tuple[float, ...]

    def __post_init__(self) -> None:
        _check_members((self.view,))
        if len(self.factors) != self.view.arity:
            raise ValueError(f"factors must be {self.view.arity} numbers, one per tensor, found {self.factors!r}")
        if not all(0.0 < factor < math.inf for factor in self.factors):
            raise ValueError(f"factors must be positive and finite, found {self.factors!r}")

    @property
    def arity(self) -> int:
        return self.view.arity

    @property
    def batch(self) -> int:
        return self.view.batch

    @property
    def scales(self) -> tuple[float, ...]:
        return tuple(a * b for a, b in zip(self.factors, self.view.scales, strict=True))

    def count(self, *shapes: Shape) -> int:
        return self.view.count(*shapes)

    def magnitudes(self, *xs: Tensor) -> Tensor:
        return self.view.magnitudes(*xs)

    def split(self, *xs: Tensor, leading: int) -> Split:
        return self.view.split(*xs, leading=leading)


def _above_underflow(norms: Tensor) -> Tensor:
    """Return the norms, those whose squares leave the normal range replaced by 0.

    Such a norm is mostly rounding error, and a channel divided by it is no unit vector: in float32 a filter of
    norm 4.5e-23 beside one of norm 1 came out 20 % too long. NaN stays NaN.
    """
    limits = torch.finfo(norms.dtype)
    return torch.where(norms < math.sqrt(limits.tiny / limits.eps), 0.0, norms)


def _ratio(new: Tensor, old: Tensor) -> Tensor:
    return torch.where(old > 0, new / torch.where(old > 0, old, 1.0), 0.0)


def _check_batch(batch: object) -> None:
    if not isinstance(batch, int) or batch < 0:
        raise ValueError(f"batch must be a number of dimensions >= 0, found {batch!r}")


def _check_axes(axes: object) -> None:
    if not isinstance(axes, Axes):
        raise TypeError(f"axes must be an Axes, found {axes!r}")


def _check_members(members: Sequence[View]) -> None:
    if not members:
        raise ValueError("members must hold at least one view, found none")
    if not all(isinstance(view, View) for view in members):
        raise TypeError(f"members must be views such as Entries() or Filters(), found {members!r}")
    if len({view.batch for view in members}) != 1:
        raise ValueError(f"members must agree on batch, found {[view.batch for view in members]}")


def _deal(members: Sequence[View], items: Sequence[T]) -> list[tuple[View, Sequence[T]]]:
    total = sum(view.arity for view in members)
    if len(items) != total:
        raise ValueError(f"the view takes {total} tensors together, found {len(items)}")
    parts, start = [], 0
    for view in members:
        parts.append((view, items[start : start + view.arity]))
        start += view.arity
    return parts
