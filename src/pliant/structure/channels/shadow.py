"""Shadows: what is known of one tensor of a run."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor

from pliant.structure.channels.fields import first_along, like, reshape, varying
from pliant.structure.channels.labels import Labels


@dataclass(frozen=True)
class Claim:
    """What must be merged if a tensor is ever read: a mean over channels that nobody uses forbids nothing."""

    layer: Tensor
    dims: frozenset[int]
    reason: str


@dataclass(frozen=True)
class Shadow:
    """The labels of one tensor.

    Args:
        shape: of the tensor.
        layers: label fields of that shape. Each of them stands for one way to take slices out: the weight of a linear
            layer has two, one per dimension; an activation mostly one, or none if all of it must stay.
        learnt: whether the tensor comes from parameters and buffers alone.
        claims: what holds as soon as the tensor is read.
        tables: label fields of what can follow a cut and forbids none: buffers, and what code makes with a given size.
    """

    shape: tuple[int, ...]
    layers: tuple[Tensor, ...] = ()
    learnt: bool = False
    claims: tuple[Claim, ...] = ()
    tables: tuple[Tensor, ...] = ()

    def over(self, dim: int) -> tuple[Tensor, ...]:
        """Return the layers that vary along a dimension."""
        return tuple(layer for layer in self.layers if dim in varying(layer))

    def only_over(self, dim: int) -> tuple[Tensor, ...]:
        """Return the tables that vary along this dimension alone."""
        return tuple(table for table in self.tables if varying(table) == {dim})

    def lively(self) -> Shadow:
        """Return the shadow without the layers that are constant: there is nothing left to take out."""
        layers = tuple(layer for layer in self.layers if varying(layer))
        tables = tuple(table for table in self.tables if varying(table))
        return Shadow(self.shape, layers, self.learnt, self.claims, tables)

    def aligned(self, shape: Sequence[int]) -> Shadow:
        """Return the shadow with leading dimensions of size 1, as broadcasting adds them."""
        extra = len(shape) - len(self.shape)
        form = (1,) * extra + self.shape
        layers, tables = (tuple(one[(None,) * extra] for one in fields) for fields in (self.layers, self.tables))
        return Shadow(form, layers, self.learnt, tables=tables)

    def sized(self, shape: Sequence[int], dims: Collection[int]) -> Shadow:
        """Return the shadow with other sizes along dimensions in which no layer varies."""
        fixed = tuple(table for table in self.tables if varying(table).isdisjoint(dims))
        layers, tables = (tuple(like(one, shape, dims) for one in fields) for fields in (self.layers, fixed))
        return Shadow(tuple(shape), layers, self.learnt, tables=tables)

    def reshaped(self, shape: Sequence[int]) -> Shadow:
        """Return the shadow in another shape of as many entries."""
        layers, tables = (tuple(reshape(one, shape) for one in fields) for fields in (self.layers, self.tables))
        return Shadow(tuple(shape), layers, self.learnt, tables=tables)


def constant_along(shadow: Shadow, dims: Collection[int], labels: Labels, reason: str) -> Shadow:
    """Return the shadow after all its layers were merged along some dimensions."""
    layers = tuple(
        labels.merge(layer, dims, reason) if not varying(layer).isdisjoint(dims) else first_along(layer, dims)
        for layer in shadow.layers
    )
    return Shadow(shadow.shape, layers, shadow.learnt, tables=_fixed_along(shadow, dims, labels, reason))


def _fixed_along(shadow: Shadow, dims: Collection[int], labels: Labels, reason: str) -> tuple[Tensor, ...]:
    """Return the tables that do not vary along some dimensions; the slices of the others stay."""
    kept = tuple(table for table in shadow.tables if varying(table).isdisjoint(dims))
    for table in shadow.tables:
        if not varying(table).isdisjoint(dims):
            labels.freeze(table, reason)
    return kept


def combine(shadows: Sequence[Shadow], shape: Sequence[int], labels: Labels, reason: str) -> Shadow:
    """Return the shadow of what is computed entry by entry from several tensors, broadcast to a shape.

    Layers that vary along a common dimension are one. Where such a layer meets a tensor that has that dimension but
    no label on it, the dimension has a fixed size, so that only what is whole slices of it can go. A table follows a
    layer that varies just as it does; what it meets otherwise lets it stay.
    """
    operands = [shadow.aligned(shape) for shadow in shadows]
    followers: list[Tensor] = []
    layers = tuple(
        _joined(parts, operands, followers, labels, reason).expand(tuple(shape))
        for parts in _overlapping([(index, layer) for index, o in enumerate(operands) for layer in o.layers])
    )
    loose = [(i, table) for i, o in enumerate(operands) for table in o.tables if not _is_in(table, followers)]
    tables = [
        _joined_tables(parts, operands, layers, labels, reason).expand(tuple(shape)) for parts in _overlapping(loose)
    ]
    return Shadow(tuple(shape), layers, all(shadow.learnt for shadow in shadows), tables=tuple(tables))


def _is_in(one: Tensor, others: Sequence[Tensor]) -> bool:
    return any(one is other for other in others)


def _overlapping(parts: list[tuple[int, Tensor]]) -> list[list[tuple[int, Tensor]]]:
    runs: list[list[tuple[int, Tensor]]] = []
    for part in parts:
        dims = varying(part[1])
        near = [run for run in runs if any(not varying(layer).isdisjoint(dims) for _, layer in run)]
        far = [run for run in runs if not any(run is other for other in near)]
        runs = [*far, [*chain.from_iterable(near), part]]
    return runs


def _joined(
    parts: list[tuple[int, Tensor]], operands: Sequence[Shadow], followers: list[Tensor], labels: Labels, reason: str
) -> Tensor:
    owners = [index for index, _ in parts]
    dims = frozenset[int]().union(*(varying(layer) for _, layer in parts))
    best = min((layer for _, layer in parts), key=lambda layer: len(varying(layer)))
    if len(set(owners)) < len(owners):
        for _, layer in parts:
            labels.freeze(layer, reason)
    for _, layer in parts:
        if layer is not best:
            labels.unify(layer, best, reason)
    for index, operand in enumerate(operands):
        fixed = frozenset(dim for dim in dims if operand.shape[dim] > 1)
        if index not in owners and not fixed.isdisjoint(varying(best)):
            alike = [table for table in operand.tables if varying(table) == varying(best)]
            if len(alike) == 1:
                labels.unify(best, alike[0], reason)
                followers.append(alike[0])
            else:
                best = labels.merge(best, fixed, reason)
    return best


def _joined_tables(
    parts: list[tuple[int, Tensor]],
    operands: Sequence[Shadow],
    layers: Sequence[Tensor],
    labels: Labels,
    reason: str,
) -> Tensor:
    """Return tables that vary along the same dimensions as one, or nothing but zeros where something else does."""
    owners, first = {index for index, _ in parts}, parts[0][1]
    dims = varying(first)
    alike = len(owners) == len(parts) and all(varying(table) == dims for _, table in parts)
    others = [operand for index, operand in enumerate(operands) if index not in owners]
    if alike and all(other.shape[dim] == 1 for other in others for dim in dims) and not _meets(layers, dims):
        for _, table in parts[1:]:
            labels.unify(first, table, reason)
        return first
    for _, table in parts:
        labels.freeze(table, reason)
    return torch.zeros((), dtype=torch.int64)


def _meets(layers: Sequence[Tensor], dims: frozenset[int]) -> bool:
    return any(not varying(layer).isdisjoint(dims) for layer in layers)
