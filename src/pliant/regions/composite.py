"""Views of several tensors together, and of tensors in other units."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from torch import Tensor

from pliant.regions import entrywise
from pliant.regions.gauges import Gauge
from pliant.regions.scaling import to_unit_peak
from pliant.regions.slices import Slices
from pliant.regions.vertex import Vertex
from pliant.regions.views import (
    Filters,
    Memory,
    Shape,
    Split,
    View,
    above_underflow,
    exact_maximiser,
    in_range,
    ratio,
)
from pliant.spec import register

T = TypeVar("T")


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

        def compact(a: Tensor) -> tuple[Vertex, ...]:
            parts = a.split(sizes, dim=-1)
            return tuple(x for split, part in zip(splits, parts, strict=True) for x in split.compact(part))

        return Split(torch.cat([split.magnitudes for split in splits], dim=-1), compact)

    def maximiser(self, gauge: Gauge, *xs: Tensor, memory: Memory) -> tuple[Vertex, ...]:  # noqa: ARG002  (exact)
        return exact_maximiser(self, gauge, xs)

    def stacked(self) -> View:
        return Joint(tuple(view.stacked() for view in self.members))


@register
@dataclass(frozen=True)
class Coupled(View):
    """Atom i is channel i of every member together; its magnitude is the Euclidean norm over all of them.

    This is the atom that removing a channel takes out: the filter, its bias, its norm scale and shift. Where a channel
    has several slices in a tensor, as a head of attention does, its member is `Slices`.

    Args:
        members: `Filters` or `Slices` views of one tensor each, all with the same number of channels.
    """

    members: tuple[Filters | Slices, ...]

    def __post_init__(self) -> None:
        _check_members(self.members)
        if not all(isinstance(view, Filters | Slices) for view in self.members):
            raise ValueError(f"members of Coupled must be Filters or Slices views, found {self.members!r}")

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
        norms = above_underflow(self.magnitudes(*xs))
        return Split(norms, lambda a: self._scaled(xs, ratio(a, norms)))

    def maximiser(self, gauge: Gauge, *xs: Tensor, memory: Memory) -> tuple[Vertex, ...]:  # noqa: ARG002  (exact)
        if sum(math.prod(x.shape[self.batch :]) for x in xs) <= entrywise.LARGE:
            return exact_maximiser(self, gauge, xs)
        norms = in_range(self.magnitudes(*xs))  # no copy of large tensors: only their norms are scaled
        a = gauge.vertex(to_unit_peak([norms], self.batch)[0][0])
        return self._scaled(xs, ratio(a, norms))

    def _scaled(self, xs: Sequence[Tensor], factors: Tensor) -> tuple[Vertex, ...]:
        return tuple(view.scaled(x, factors) for view, x in zip(self.members, xs, strict=True))

    def stacked(self) -> View:
        return Coupled(tuple(replace(view, batch=view.batch + 1) for view in self.members))


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

    def maximiser(self, gauge: Gauge, *xs: Tensor, memory: Memory) -> tuple[Vertex, ...]:
        return self.view.maximiser(gauge, *xs, memory=memory)

    def stacked(self) -> View:
        return replace(self, view=self.view.stacked())


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
