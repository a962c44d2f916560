"""Rules for what writes entries to places given by number: nodes of a graph, tokens of an expert, bins."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from pliant.structure.channels.operation import Operation, Rule, not_understood, operators
from pliant.structure.channels.shadow import Shadow, combine, constant_along


def by_slices(operation: Operation) -> Shadow:
    """index_add and its kin: slices of a source go to numbered slices of a tensor."""
    return _written(operation, operation.need("source"), operation.arguments["dim"])


def by_entries(operation: Operation) -> Shadow | Sequence[Shadow]:
    """Scatter and its kin: entries go to numbered places along one dimension, and keep their others."""
    target, dim = operation.need("self"), operation.arguments["dim"] % len(operation.shape)
    source = operation.tensor("src") or Shadow((1,) * len(target.shape))
    index = tuple(operation.arguments["index"].shape)
    for other, size in enumerate(target.shape):
        if other != dim and (index[other] != size or source.shape[other] not in {1, size}):
            return not_understood(operation)  # a corner is written: its widths are numbers in the code
    return _written(operation, source, dim)


def by_lists(operation: Operation) -> Shadow | Sequence[Shadow]:
    """index_put with the numbers of slices along one dimension."""
    given = [(dim, index) for dim, index in enumerate(operation.arguments["indices"]) if index is not None]
    if len(given) != 1 or given[0][1].ndim != 1:
        return not_understood(operation)
    return _written(operation, operation.need("values").aligned(operation.shape), given[0][0])


def _written(operation: Operation, source: Shadow, dim: int) -> Shadow:
    """Return what a tensor is after slices of a source were written to it along a dimension."""
    dim %= len(operation.shape)
    for index in (operation.arguments.get("index"), *operation.arguments.get("indices", ())):
        for layer in operation.read(index).layers if isinstance(index, Tensor) else ():
            operation.labels.freeze(layer, operation.reason("its channels are used as numbers of entries in"))
    reason = operation.reason("its channels are written by their numbers in")
    parts = [constant_along(part, {dim}, operation.labels, reason) for part in (operation.need("self"), source)]
    flat = [part.sized([*part.shape[:dim], 1, *part.shape[dim + 1 :]], {dim}) for part in parts]
    meets = operation.reason("it meets a tensor of fixed width:")
    return combine(flat, flat[0].shape, operation.labels, meets).sized(operation.shape, {dim})


_BY_SLICES = "index_add index_add_ index_copy index_copy_ index_reduce index_reduce_"
_BY_ENTRIES = "scatter scatter_ scatter_add scatter_add_ scatter_reduce scatter_reduce_"

RULES: dict[object, Rule] = {
    **dict.fromkeys(operators(_BY_SLICES), by_slices),
    **dict.fromkeys(operators(_BY_ENTRIES), by_entries),
    **dict.fromkeys(operators("index_put index_put_"), by_lists),
}
