"""Rules for what only moves entries: the labels move with them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pliant.structure.channels.fields import compact, packed, segments, varying
from pliant.structure.channels.operation import Operation, Rule, operators
from pliant.structure.channels.shadow import Shadow, combine

_ATEN = torch.ops.aten


def moving(move: Any) -> Rule:  # noqa: ANN401  (an operator of torch)
    """Return the rule of an operator that can be run on the labels themselves."""

    def rule(operation: Operation) -> list[Shadow]:
        return _on_labels(move, operation)

    return rule


def _on_labels(move: Any, operation: Operation) -> list[Shadow]:  # noqa: ANN401  (an operator of torch)
    rest = [_on_cpu(value) for value in operation.positional[1:]]
    return _moved(operation.need("self"), operation, lambda layer: move(layer, *rest))


def _moved(source: Shadow, operation: Operation, move: Callable[[Tensor], Any]) -> list[Shadow]:
    results, tables = [move(layer) for layer in source.layers], [move(table) for table in source.tables]
    shadows = []
    for index, output in enumerate(operation.outputs):
        kept = tuple(compact(_part(result, index)) for result in results)
        whole = [
            part
            for table, result in zip(source.tables, tables, strict=True)
            if _is_whole(part := compact(_part(result, index)), table, operation)
        ]
        shadows.append(Shadow(tuple(output.shape), kept, source.learnt, tables=tuple(whole)))
    return shadows


def _part(result: Any, index: int) -> Tensor:  # noqa: ANN401  (what an operator of torch returns)
    part: Tensor = result if isinstance(result, Tensor) else result[index]
    return part


def _is_whole(part: Tensor, table: Tensor, operation: Operation) -> bool:
    """Tell whether all slices of a table are still there; where some were picked, all of them stay."""
    if len(torch.unique(packed(part))) == len(torch.unique(packed(table))):
        return True
    operation.labels.freeze(table, operation.reason("its slices are picked by"))
    return False


def _on_cpu(value: Any) -> Any:  # noqa: ANN401  (any argument of an operator)
    if isinstance(value, list | tuple):
        return [_on_cpu(item) for item in value]
    return value.cpu() if isinstance(value, Tensor) else value


def reshaping(operation: Operation) -> Shadow:
    """Reshape; a dimension that is split keeps whole slices of one of its parts only."""
    source = operation.read(operation.tensors()[0])
    result = source.reshaped(operation.shape)
    for layer in result.layers:
        vary = varying(layer)
        for _, outs in segments(source.shape, result.shape):
            if len(vary.intersection(outs)) > 1:
                operation.labels.split(_block(layer, outs))
    return result


def _block(layer: Tensor, dims: list[int]) -> Tensor:
    other = [dim for dim in range(layer.ndim) if dim not in dims]
    small = packed(layer).permute(*dims, *other)
    # Other dimensions that vary count as one more: what is removed must be whole slices there too.
    return small.flatten(len(dims)) if other else small


def shuffling(operation: Operation) -> Shadow:
    """Channels that are dealt out to pixels, or into another order: whole packs of them go, or their number falls."""
    source = operation.need("self")
    grouped = "groups" in operation.arguments
    count = operation.arguments["groups"] if grouped else source.shape[-3] // operation.arguments["upscale_factor"] ** 2
    dim = 1 if grouped else len(source.shape) - 3
    for layer in source.over(dim):
        channels = packed(layer).movedim(dim, 0).flatten(1)
        packs = channels.unflatten(0, (count, -1))
        operation.labels.split(packs.squeeze(-1))
        if grouped:
            operation.count("groups", packs[:, 0, 0])
    move = _ATEN.channel_shuffle.default if grouped else _ATEN.pixel_shuffle.default
    return _on_labels(move, operation)[0]


def selecting(operation: Operation) -> Shadow:
    """One slice by its number: everything up to it must stay where it is."""
    source = operation.need("self")
    dim, index = operation.arguments["dim"] % len(source.shape), operation.arguments["index"]
    _by_number(source, dim, index, operation)
    return _on_labels(_ATEN.select.int, operation)[0]


def _by_number(source: Shadow, dim: int, index: int, operation: Operation) -> None:
    """Freeze what lies between the picked slice and the end that it is counted from."""
    start, count = (0, index + 1) if index >= 0 else (source.shape[dim] + index, -index)
    for layer in source.over(dim):
        if varying(layer) == {dim}:
            operation.labels.freeze(
                layer.narrow(dim, start, count), operation.reason("one channel is read by its number in")
            )


def unbinding(operation: Operation) -> list[Shadow]:
    """All slices, one by one: their number is fixed."""
    source = operation.need("self")
    dim = operation.arguments["dim"] % len(source.shape)
    for layer in source.over(dim):
        if varying(layer) == {dim}:
            operation.labels.freeze(layer, operation.reason("its channels are read one by one in"))
    return _on_labels(_ATEN.unbind.int, operation)


def slicing(operation: Operation) -> Shadow:
    """A range of slices; ranges that cut a dimension into equal parts must lose equally much."""
    source = operation.need("self")
    dim = operation.arguments["dim"] % len(source.shape)
    size, part = source.shape[dim], operation.shape[dim]
    result = _moved(source, operation, lambda layer: _ATEN.slice.Tensor(layer, *operation.positional[1:]))
    if part == 1:
        _by_number(source, dim, operation.arguments["start"] or 0, operation)
    elif 0 < part < size and size % part == 0 and operation.arguments["step"] == 1:
        _halve(source, dim, size // part, operation)
    return result[0]


def splitting(operation: Operation) -> list[Shadow]:
    """Consecutive parts; if they are equal they must lose equally much, for code computes their size."""
    source = operation.need("self")
    dim = operation.arguments["dim"] % len(source.shape)
    sizes = [output.shape[dim] for output in operation.outputs]
    if len(sizes) > 1 and len(set(sizes)) == 1:
        _halve(source, dim, len(sizes), operation)
    return _moved(source, operation, lambda layer: torch.split(layer, sizes, dim))


def _halve(source: Shadow, dim: int, parts: int, operation: Operation) -> None:
    for layer in source.over(dim):
        operation.labels.halve(packed(layer).movedim(dim, 0).reshape(parts, -1))


def gating(operation: Operation) -> Shadow:
    """GLU: the first half of a dimension times the sigmoid of the second."""
    source = operation.need("self")
    dim = operation.arguments["dim"] % len(source.shape)
    size = source.shape[dim] // 2
    halves = [
        Shadow(operation.shape, tuple(layer.narrow(dim, start, size) for layer in source.layers), source.learnt)
        for start in (0, size)
    ]
    return combine(halves, operation.shape, operation.labels, operation.reason("it meets a tensor of fixed width:"))


def joining(operation: Operation) -> Shadow:
    """Concatenation: labels side by side along the dimension, and the same across it."""
    tensors = [tensor for tensor in operation.arguments["tensors"] if tensor.ndim > 1 or tensor.numel()]
    dim = operation.arguments["dim"] % tensors[0].ndim
    return _cat([operation.read(tensor) for tensor in tensors], dim, operation)


def stacking(operation: Operation) -> Shadow:
    """Concatenation along a new dimension."""
    tensors = operation.arguments["tensors"]
    dim = operation.arguments["dim"] % (tensors[0].ndim + 1)
    shadows = []
    for tensor in tensors:
        shape = list(tensor.shape)
        shadows.append(operation.read(tensor).reshaped((*shape[:dim], 1, *shape[dim:])))
    return _cat(shadows, dim, operation)


def _cat(shadows: list[Shadow], dim: int, operation: Operation) -> Shadow:
    shadows = [_as_whole(shadow, shadows, dim, operation) for shadow in shadows]
    across, along = [], []
    for shadow in shadows:
        side = tuple(layer for layer in shadow.layers if dim not in varying(layer))
        flat = [*shadow.shape[:dim], 1, *shadow.shape[dim + 1 :]]
        across.append(Shadow(shadow.shape, side, tables=shadow.tables).sized(flat, {dim}))
        along.append(shadow.over(dim))
    reason = operation.reason("it meets a tensor of fixed width:")
    joined = combine(across, across[0].shape, operation.labels, reason).sized(operation.shape, {dim})
    side_by_side = _side_by_side(along, shadows, dim, operation)
    learnt = all(shadow.learnt for shadow in shadows)
    return Shadow(operation.shape, (*joined.layers, *side_by_side), learnt, tables=joined.tables)


def _as_whole(shadow: Shadow, shadows: list[Shadow], dim: int, operation: Operation) -> Shadow:
    """Merge layers along the dimension where other parts have whole slices already, such as half of a head."""
    whole = [varying(layer) for other in shadows for layer in other.layers if dim not in varying(layer)]
    layers = []
    for layer in shadow.layers:
        rest = varying(layer) - {dim}
        if dim in varying(layer) and any(not rest.isdisjoint(dims) for dims in whole):
            layer = operation.labels.merge(layer, {dim}, operation.reason("it joins whole slices in"))  # noqa: PLW2901
        layers.append(layer)
    return Shadow(shadow.shape, tuple(layers), shadow.learnt, tables=shadow.tables)


def _side_by_side(
    along: list[tuple[Tensor, ...]], shadows: list[Shadow], dim: int, operation: Operation
) -> tuple[Tensor, ...]:
    if not any(along):
        return ()
    fields = []
    for layers, shadow in zip(along, shadows, strict=True):
        for extra in layers[1:]:
            operation.labels.freeze(extra, operation.reason("two kinds of channels meet in"))
        fields.append(layers[0] if layers else torch.zeros((), dtype=torch.int64).expand(shadow.shape))
    for other in range(len(operation.shape)):
        if other != dim and all(other not in varying(field) for field in fields):
            fields = [field.narrow(other, 0, 1) for field in fields]
    return (compact(torch.cat(fields, dim).expand(operation.shape)),)


def indexing(operation: Operation) -> Shadow:
    """Entries by their numbers, which are constants."""
    for index in operation.arguments["indices"]:
        if isinstance(index, Tensor):
            for layer in operation.read(index).layers:
                operation.labels.freeze(layer, operation.reason("its channels are used as numbers of entries in"))
    indices = [None if index is None else _on_cpu(index) for index in operation.arguments["indices"]]
    return _moved(operation.need("self"), operation, lambda layer: _ATEN.index.Tensor(layer, indices))[0]


def padding(operation: Operation) -> Shadow:
    """New entries belong to their channel; new channels belong to none."""
    source = operation.need("self")
    pads = list(operation.arguments["pad"])
    changed = {len(source.shape) - 1 - index // 2 for index, pad in enumerate(pads) if pad}
    layers = []
    for layer in source.layers:
        free = changed - varying(layer)
        small = [0 if len(source.shape) - 1 - index // 2 in free else pad for index, pad in enumerate(pads)]
        padded = _ATEN.constant_pad_nd(layer, small, 0)
        for dim in free:
            padded = padded.narrow(dim, 0, 1)
        layers.append(compact(padded.expand(operation.shape)))
    return Shadow(operation.shape, tuple(layers), source.learnt)


RULES: dict[object, Rule] = {
    **dict.fromkeys(operators("view _unsafe_view reshape _reshape_alias squeeze"), reshaping),
    **dict.fromkeys(operators("split unsafe_split split_with_sizes unsafe_split_with_sizes"), splitting),
    _ATEN.permute: moving(_ATEN.permute.default),
    _ATEN.transpose: moving(_ATEN.transpose.int),
    _ATEN.t: moving(_ATEN.t.default),
    _ATEN.expand: moving(_ATEN.expand.default),
    _ATEN.unsqueeze: moving(_ATEN.unsqueeze.default),
    _ATEN.flip: moving(_ATEN.flip.default),
    _ATEN.roll: moving(_ATEN.roll.default),
    _ATEN.repeat: moving(_ATEN.repeat.default),
    _ATEN.unfold: moving(_ATEN.unfold.default),
    _ATEN.diagonal: moving(_ATEN.diagonal.default),
    _ATEN.index_select: moving(_ATEN.index_select.default),
    _ATEN.gather: moving(_ATEN.gather.default),
    _ATEN.pixel_shuffle: shuffling,
    _ATEN.pixel_unshuffle: moving(_ATEN.pixel_unshuffle.default),
    _ATEN.channel_shuffle: shuffling,
    _ATEN.slice: slicing,
    _ATEN.select: selecting,
    _ATEN.unbind: unbinding,
    _ATEN.glu: gating,
    _ATEN.cat: joining,
    _ATEN.stack: stacking,
    _ATEN.index: indexing,
    _ATEN.constant_pad_nd: padding,
}
