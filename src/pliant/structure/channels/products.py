"""Rules for products: what is summed over disappears, together with the columns that read it."""

from __future__ import annotations

import torch
from torch import Tensor

from pliant.structure.channels.fields import first_along, varying
from pliant.structure.channels.graph import Role
from pliant.structure.channels.labels import Labels
from pliant.structure.channels.operation import Operation, Rule, operators
from pliant.structure.channels.shadow import Shadow, combine


def matrix_product(operation: Operation) -> Shadow:
    """mm, bmm, mv and dot, with a summand or without."""
    names = list(operation.arguments)
    start = 1 if names[0] == "input" or operation.name.endswith(("addmm", "baddbmm", "addmv")) else 0
    left, right = operation.need(names[start]), operation.need(names[start + 1])
    result = product(_three(left, at_end=False), _three(right, at_end=True), operation).reshaped(operation.shape)
    return _with_summand(result, operation, names[0]) if start else result


def _three(shadow: Shadow, *, at_end: bool) -> Shadow:
    shape = shadow.shape
    if len(shape) == 1:
        shape = (*shape, 1) if at_end else (1, *shape)
    return shadow.reshaped(shape if len(shape) == 3 else (1, *shape))


def _with_summand(result: Shadow, operation: Operation, name: str) -> Shadow:
    if len(operation.need(name).shape) == 1:
        return operation.add(result, name, Role.BIAS)
    reason = operation.reason("it meets a tensor of fixed width:")
    return combine([result, operation.need(name)], operation.shape, operation.labels, reason)


def product(left: Shadow, right: Shadow, operation: Operation) -> Shadow:
    """Return the shadow of a batched matrix product (batch, rows, inner) x (batch, inner, columns)."""
    labels, reason = operation.labels, operation.reason("its channels are summed with a fixed number of terms in")
    inner_left, inner_right = left.over(2), right.over(1)
    if not (inner_left and inner_right):
        inner_left, inner_right = (
            inner_left or (left.only_over(2) if inner_right else ()),
            inner_right or (right.only_over(1) if inner_left else ()),
        )
    if right.learnt:
        for layer in right.layers:
            labels.mark(Role.INPUT if layer in _by_id(inner_right) else Role.OUTPUT, layer)
    rest_left = [layer for layer in left.layers if layer not in _by_id(inner_left)]
    rest_right = [layer for layer in right.layers if layer not in _by_id(inner_right)]
    more_left, ends_left = _inner(inner_left, 2, fixed=not inner_right, labels=labels, reason=reason)
    more_right, ends_right = _inner(inner_right, 1, fixed=not inner_left, labels=labels, reason=reason)
    for first, second in zip(ends_left, ends_right, strict=False):
        labels.unify(first[:, :1], second.mT[:, :1], reason)
    shape = (left.shape[0], left.shape[1], right.shape[2])
    return combine(
        [
            Shadow(left.shape, (*rest_left, *more_left)).sized((*left.shape[:2], 1), {2}),
            Shadow(right.shape, (*rest_right, *more_right)).sized((right.shape[0], 1, right.shape[2]), {1}),
        ],
        shape,
        labels,
        reason,
    )


class _by_id(list[Tensor]):  # noqa: N801
    def __contains__(self, item: object) -> bool:
        return any(item is own for own in self)


def _inner(
    layers: tuple[Tensor, ...], dim: int, *, fixed: bool, labels: Labels, reason: str
) -> tuple[list[Tensor], list[Tensor]]:
    """Return of the layers that are summed over what is left of them outside the sum, and what must be matched."""
    rest, ends = [], []
    for layer in layers:
        if varying(layer) != {dim}:
            rest.append(labels.merge(layer, {dim}, reason))  # whole heads
        elif fixed:
            labels.freeze(layer, reason)
        else:
            ends.append(layer)
    return rest, ends


def convolution(operation: Operation) -> Shadow:
    """Convolution: one channel of the input, one column of every filter; a group of channels is one atom."""
    arguments = operation.arguments
    given, weight = operation.need("input"), operation.need("weight")
    spatial = frozenset(range(2, len(given.shape)))
    labels = operation.labels
    given = Shadow(given.shape, tuple(_whole_channels(layer, spatial, operation) for layer in given.layers))
    incoming = _vector(given, 1, operation)
    first, second = _vector(weight, 0, operation), _vector(weight, 1, operation)
    learnt = weight.learnt and bool(weight.layers)
    transposed, groups = bool(arguments["transposed"]), int(arguments["groups"])
    outgoing, incoming_columns = (second, first) if transposed else (first, second)
    reason = operation.reason("it meets channels that must stay:")
    if groups == 1:
        labels.mark(Role.INPUT, incoming_columns) if learnt else None
        labels.mark(Role.OUTPUT, outgoing) if learnt else None
        labels.unify(incoming, incoming_columns, reason)
    else:
        labels.mark(Role.OUTPUT, first) if learnt else None
        labels.freeze(second, operation.reason("the groups share it:"))
        labels.unify(incoming.view(groups, -1)[:, :1], first.view(groups, -1), reason)
        labels.unify(incoming.view(groups, -1)[:, :1], incoming.view(groups, -1), reason)
        outgoing = first.view(groups, -1)[:, :1].expand(groups, operation.shape[1] // groups).flatten()
    shape = operation.shape
    layer = outgoing.view(1, -1, *(1 for _ in spatial)).expand(shape)
    rest = [other for other in given.layers if 1 not in varying(other)]
    passed = Shadow(given.shape, tuple(rest)).sized(shape, {1, *spatial})
    return operation.add(Shadow(shape, (*passed.layers, layer)), "bias", Role.BIAS, dim=1)


def _whole_channels(layer: Tensor, spatial: frozenset[int], operation: Operation) -> Tensor:
    vary = varying(layer)
    dims = spatial | {0} if 1 in vary else spatial
    reason = operation.reason("it must be the same everywhere for")
    return operation.labels.merge(layer, dims, reason) if vary & dims else first_along(layer, dims)


def _vector(shadow: Shadow, dim: int, operation: Operation) -> Tensor:
    """Return the labels along one dimension, zeros if there are none."""
    size = shadow.shape[dim]
    found = [layer for layer in shadow.over(dim) if varying(layer) == {dim}] or list(shadow.only_over(dim))
    for layer in shadow.over(dim):
        if len(found) != 1 or layer is not found[0]:
            operation.labels.freeze(layer, operation.reason("two kinds of channels meet in"))
    if len(found) != 1:
        return torch.zeros(size, dtype=torch.int64)
    index = tuple(slice(None) if other == dim else 0 for other in range(len(shadow.shape)))
    return found[0][index]


def embedding(operation: Operation) -> Shadow:
    """Rows of a table: its width is that of the result."""
    weight = operation.need("weight")
    columns = _vector(weight, 1, operation)
    fields = (columns.expand(operation.shape),)
    if not weight.layers:
        return Shadow(operation.shape, tables=fields if weight.tables else ())
    if weight.learnt:
        operation.labels.mark(Role.OUTPUT, columns)
    return Shadow(operation.shape, fields)


RULES: dict[object, Rule] = {
    **dict.fromkeys(operators("mm bmm mv dot addmm baddbmm addmv _addmm_activation"), matrix_product),
    **dict.fromkeys(operators("convolution"), convolution),
    **dict.fromkeys(operators("embedding"), embedding),
}
