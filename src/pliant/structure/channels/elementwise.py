"""Rules for what is computed entry by entry."""

from __future__ import annotations

from torch import Tensor

from pliant.structure.channels.fields import fields_of, varying
from pliant.structure.channels.graph import Role
from pliant.structure.channels.labels import Labels
from pliant.structure.channels.operation import Operation, Rule, operators
from pliant.structure.channels.shadow import Shadow, combine


def elementwise(operation: Operation) -> Shadow:
    """Entries at the same place share their channel."""
    read = [operation.read(tensor) for tensor in operation.tensors()]
    shadows = [shadow for shadow in read if shadow.shape]
    for divisor in _divisors(operation):
        for table in divisor.tables:
            operation.labels.mark(Role.VARIANCE, table)
    reason = operation.reason("it meets a tensor of fixed width:")
    return combine(shadows, operation.shape, operation.labels, reason)


def _divisors(operation: Operation) -> list[Shadow]:
    """Return what something is divided by."""
    name = operation.name.removeprefix("aten.").rstrip("_")
    exponent = operation.arguments.get("exponent")
    if name in {"rsqrt", "reciprocal"} or (name == "pow" and isinstance(exponent, int | float) and exponent < 0):
        return [operation.need("self")]
    other = operation.tensor("other") if name == "div" else None
    return [] if other is None else [other]


def same(operation: Operation) -> Shadow:
    """Return what the first argument is, in the same shape."""
    first = operation.read(operation.tensors()[0])
    return Shadow(operation.shape, first.layers, first.learnt, tables=first.tables)


def twice(operation: Operation) -> list[Shadow]:
    """Return the same for several outputs of one shape."""
    return [elementwise(operation)] * len(operation.outputs)


def new(operation: Operation) -> Shadow:
    """A tensor made with the widths of another one shares its channels: code reads sizes from what it is given."""
    first, shape = operation.need("self"), operation.shape
    if len(first.shape) != len(shape):
        return made(operation.outputs[0], operation.labels)
    changed = {dim for dim, size in enumerate(first.shape) if size != shape[dim]}
    kept = tuple(layer for layer in first.layers if varying(layer).isdisjoint(changed))
    same_width = Shadow(first.shape, kept).sized(shape, changed)
    taken = frozenset[int]().union(*(varying(layer) for layer in same_width.layers))
    tables = made(operation.outputs[0], operation.labels).tables
    free = tuple(table for table in tables if varying(table).isdisjoint(taken))
    return Shadow(shape, same_width.layers, tables=free)


def made(tensor: Tensor, labels: Labels) -> Shadow:
    """Return the shadow of a tensor that code made with a given size: it may be the width of whatever it meets."""
    shape = tuple(tensor.shape)
    return Shadow(shape, learnt=True, tables=fields_of(shape, [labels.fresh("", d, n) for d, n in enumerate(shape)]))


def channel_scales(operation: Operation) -> Shadow:
    """PReLU: a weight that is broadcast already."""
    shadows = [operation.need("self"), operation.need("weight")]
    return combine(shadows, operation.shape, operation.labels, operation.reason("its width meets that of"))


_SAME = (
    "_to_copy clone contiguous alias detach detach_ lift_fresh bernoulli bernoulli_ uniform_ normal_ random_ "
    "log_sigmoid_forward tril triu fill_ zero_ empty_like zeros_like ones_like full_like rand_like randn_like"
)

MADE = frozenset(operators("zeros ones full empty new_zeros new_ones new_full new_empty"))
RULES: dict[object, Rule] = {
    **dict.fromkeys(operators("hardswish hardswish_ copy_ rrelu_with_noise"), elementwise),
    **dict.fromkeys(operators("native_dropout"), twice),
    **dict.fromkeys(operators("_prelu_kernel"), channel_scales),
    **dict.fromkeys(operators("new_empty new_zeros new_ones new_full"), new),
    **dict.fromkeys(operators(_SAME), same),
}
