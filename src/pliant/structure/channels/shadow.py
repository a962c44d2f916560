"""Shadows: what is known of one tensor of a run."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import chain

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
    """

    shape: tuple[int, ...]
    layers: tuple[Tensor, ...] = ()
    learnt: bool = False
    claims: tuple[Claim, ...] = ()

    def over(self, dim: int) -> tuple[Tensor, ...]:
        """Return the layers that vary along a dimension."""
        return tuple(layer for layer in self.layers if dim in varying(layer))

    def lively(self) -> Shadow:
        """Return the shadow without the layers that are constant: there is nothing left to take out."""
        layers = tuple(layer for layer in self.layers if varying(layer))
        return Shadow(self.shape, layers, self.learnt, self.claims)

    def aligned(self, shape: Sequence[int]) -> Shadow:
        """Return the shadow with leading dimensions of size 1, as broadcasting adds them."""
        extra = len(shape) - len(self.shape)
        form = (1,) * extra + self.shape
        return Shadow(form, tuple(layer[(None,) * extra] for layer in self.layers), self.learnt)

    def sized(self, shape: Sequence[int], dims: Collection[int]) -> Shadow:
        """Return the shadow with other sizes along dimensions in which no layer varies."""
        return Shadow(tuple(shape), tuple(like(layer, shape, dims) for layer in self.layers), self.learnt)

    def reshaped(self, shape: Sequence[int]) -> Shadow:
        """Return the shadow in another shape of as many entries."""
        return Shadow(tuple(shape), tuple(reshape(layer, shape) for layer in self.layers), self.learnt)


def constant_along(shadow: Shadow, dims: Collection[int], labels: Labels, reason: str) -> Shadow:
    """Return the shadow after all its layers were merged along some dimensions."""
    layers = tuple(
        labels.merge(layer, dims, reason) if not varying(layer).isdisjoint(dims) else first_along(layer, dims)
        for layer in shadow.layers
    )
    return Shadow(shadow.shape, layers, shadow.learnt)


def combine(shadows: Sequence[Shadow], shape: Sequence[int], labels: Labels, reason: str) -> Shadow:
    """Return the shadow of what is computed entry by entry from several tensors, broadcast to a shape.

    Layers that vary along a common dimension are one. Where such a layer meets a tensor that has that dimension but
    no label on it, the dimension has a fixed size, so that only what is whole slices of it can go.
    """
    operands = [shadow.aligned(shape) for shadow in shadows]
    layers = [
        _joined(parts, operands, labels, reason).expand(tuple(shape))
        for parts in _overlapping([(index, layer) for index, o in enumerate(operands) for layer in o.layers])
    ]
    return Shadow(tuple(shape), tuple(layers), all(shadow.learnt for shadow in shadows))


def _overlapping(parts: list[tuple[int, Tensor]]) -> list[list[tuple[int, Tensor]]]:
    runs: list[list[tuple[int, Tensor]]] = []
    for part in parts:
        dims = varying(part[1])
        near = [run for run in runs if any(not varying(layer).isdisjoint(dims) for _, layer in run)]
        far = [run for run in runs if not any(run is other for other in near)]
        runs = [*far, [*chain.from_iterable(near), part]]
    return runs


def _joined(parts: list[tuple[int, Tensor]], operands: Sequence[Shadow], labels: Labels, reason: str) -> Tensor:
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
            best = labels.merge(best, fixed, reason)
    return best
