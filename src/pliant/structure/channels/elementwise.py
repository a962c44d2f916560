"""Rules for what is computed entry by entry."""

from __future__ import annotations

from pliant.structure.channels.fields import varying
from pliant.structure.channels.operation import Operation, Rule, operators
from pliant.structure.channels.shadow import Shadow, combine


def elementwise(operation: Operation) -> Shadow:
    """Entries at the same place share their channel."""
    read = [operation.read(tensor) for tensor in operation.tensors()]
    shadows = [shadow for shadow in read if shadow.shape]
    reason = operation.reason("it meets a tensor of fixed width:")
    return combine(shadows, operation.shape, operation.labels, reason)


def same(operation: Operation) -> Shadow:
    """Return what the first argument is, in the same shape."""
    first = operation.read(operation.tensors()[0])
    return Shadow(operation.shape, first.layers, first.learnt)


def twice(operation: Operation) -> list[Shadow]:
    """Return the same for several outputs of one shape."""
    return [elementwise(operation)] * len(operation.outputs)


def new(operation: Operation) -> Shadow:
    """A tensor made with the widths of another one shares its channels: code reads sizes from what it is given."""
    first, shape = operation.need("self"), operation.shape
    if len(first.shape) != len(shape):
        return Shadow(shape)
    changed = {dim for dim, size in enumerate(first.shape) if size != shape[dim]}
    kept = tuple(layer for layer in first.layers if varying(layer).isdisjoint(changed))
    return Shadow(first.shape, kept).sized(shape, changed)


def channel_scales(operation: Operation) -> Shadow:
    """PReLU: a weight that is broadcast already."""
    shadows = [operation.need("self"), operation.need("weight")]
    return combine(shadows, operation.shape, operation.labels, operation.reason("its width meets that of"))


_SAME = (
    "_to_copy clone contiguous alias detach detach_ lift_fresh bernoulli bernoulli_ uniform_ normal_ random_ "
    "log_sigmoid_forward tril triu fill_ zero_ empty_like zeros_like ones_like full_like rand_like randn_like"
)

RULES: dict[object, Rule] = {
    **dict.fromkeys(operators("hardswish hardswish_ copy_ rrelu_with_noise"), elementwise),
    **dict.fromkeys(operators("native_dropout"), twice),
    **dict.fromkeys(operators("_prelu_kernel"), channel_scales),
    **dict.fromkeys(operators("new_empty new_zeros new_ones new_full"), new),
    **dict.fromkeys(operators(_SAME), same),
}
