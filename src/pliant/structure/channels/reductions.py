"""Rules for sums, means, norms and pools: what they mix must live and die together."""

from __future__ import annotations

import torch
from torch import Tensor

from pliant.structure.channels.fields import first_along, packed, varying
from pliant.structure.channels.graph import Role
from pliant.structure.channels.labels import Labels
from pliant.structure.channels.operation import Operation, Rule, operators
from pliant.structure.channels.shadow import Claim, Shadow, combine, constant_along

_TEXT = "its channels are mixed by"


def reduction(operation: Operation) -> list[Shadow]:
    """Sums, means, maxima, norms over dimensions; with the dimensions kept or not."""
    source = operation.read(operation.tensors()[0])
    dims = _dims(operation, len(source.shape))
    claims = tuple(
        Claim(layer, dims, operation.reason(_TEXT)) for layer in source.layers if not varying(layer).isdisjoint(dims)
    )
    flat = Shadow(source.shape, tuple(first_along(layer, dims) for layer in source.layers), source.learnt)
    kept = flat.sized([1 if dim in dims else size for dim, size in enumerate(source.shape)], dims)
    return [
        Shadow((s := kept.reshaped(output.shape)).shape, s.layers, s.learnt, claims) for output in operation.outputs
    ]


def along(operation: Operation) -> list[Shadow]:
    """Softmax, cumulative sums and sorting: the same shape, mixed along dimensions."""
    source = operation.read(operation.tensors()[0])
    dims = _dims(operation, len(source.shape))
    reason = operation.reason(_TEXT)
    layers = tuple(_whole(layer, dims, operation.labels, reason) for layer in source.layers)
    mixed = Shadow(source.shape, layers)
    shapes = [tuple(output.shape) for output in operation.outputs]
    return [mixed if shape == source.shape else mixed.sized(shape, dims) for shape in shapes]


def _dims(operation: Operation, ndim: int) -> frozenset[int]:
    given = operation.arguments.get("dim", -1 if "k" in operation.arguments else None)
    if given is None or given == []:
        return frozenset(range(ndim))
    return frozenset(dim % ndim for dim in (given if isinstance(given, list | tuple) else [given]))


def spatial(count: int) -> Rule:
    """Return the rule of pools, paddings and resampling over the last `count` dimensions."""

    def rule(operation: Operation) -> list[Shadow]:
        source = operation.read(operation.tensors()[0])
        dims = frozenset(range(len(source.shape) - count, len(source.shape)))
        reason = operation.reason("it must be the same everywhere for")
        mixed = constant_along(source, dims, operation.labels, reason)
        return [mixed.sized(output.shape, dims) for output in operation.outputs]

    return rule


def channelwise(operation: Operation) -> list[Shadow]:
    """Batch norm: one scale, shift, mean and variance per channel."""
    source = operation.need("input")
    dims = frozenset(range(len(source.shape))) - {1}
    reason = operation.reason("it must be the same everywhere for")
    mixed = constant_along(source, dims, operation.labels, reason)
    for layer in mixed.over(1):
        operation.count("num_features", torch.unique(packed(layer)))
    for name, role in _STATISTICS.items():
        mixed = operation.add(mixed, name, role, dim=1)
    return [mixed, *(Shadow(tuple(output.shape)) for output in operation.outputs[1:])]


_STATISTICS = {"weight": Role.SCALE, "bias": Role.SHIFT, "running_mean": Role.MEAN, "running_var": Role.VARIANCE}


def groupwise(operation: Operation) -> list[Shadow]:
    """Group norm: the channels of a group are one atom."""
    source, groups = operation.need("input"), operation.arguments["group"]
    shape = source.shape
    grouped = source.reshaped((shape[0], groups, shape[1] // groups, *shape[2:]))
    dims = frozenset(range(2, len(grouped.shape)))
    reason = operation.reason("its channels are normalised together by")
    mixed = constant_along(grouped, dims, operation.labels, reason)
    for layer in mixed.over(1):
        operation.count("num_groups", layer.select(0, 0).flatten(1)[:, 0])
    mixed = mixed.reshaped(shape)
    for layer in mixed.over(1):
        operation.count("num_channels", layer.select(0, 0).flatten(1)[:, 0])
    for name in ("weight", "bias"):
        mixed = operation.add(mixed, name, _STATISTICS[name], dim=1)
    return [mixed, *(Shadow(tuple(output.shape)) for output in operation.outputs[1:])]


def layerwise(operation: Operation) -> list[Shadow]:
    """Layer norm and RMS norm: all channels are one."""
    source = operation.need("input")
    size = len(operation.arguments["normalized_shape"])
    dims = frozenset(range(len(source.shape) - size, len(source.shape)))
    reason = operation.reason("its channels are normalised together by")
    mixed = Shadow(source.shape, tuple(_whole(layer, dims, operation.labels, reason) for layer in source.layers))
    for name in ("weight", "bias"):
        vector = operation.tensor(name)
        if vector is not None:
            for layer in vector.layers:
                operation.labels.mark(_STATISTICS[name], layer)
            joined = combine(
                [mixed, vector], mixed.shape, operation.labels, operation.reason("its width meets that of")
            )
            mixed = Shadow(joined.shape, joined.layers)
    return [mixed, *(Shadow(tuple(output.shape)) for output in operation.outputs[1:])]


def _whole(layer: Tensor, dims: frozenset[int], labels: Labels, reason: str) -> Tensor:
    if varying(layer).isdisjoint(dims):
        return layer
    if varying(layer) <= dims:
        labels.freeze(layer, reason)  # and stays in sight, so that what reads it gets the same reason
        return layer
    return labels.merge(layer, dims, reason)


_REDUCTIONS = (
    "sum mean amax amin prod var std var_mean std_mean linalg_vector_norm norm logsumexp any all argmax argmin max "
    "min median mode count_nonzero"
)
_ALONG = "_softmax _log_softmax _safe_softmax softmax log_softmax cumsum cumprod sort argsort topk"
_SPATIAL = {
    1: "upsample_nearest1d _upsample_nearest_exact1d upsample_linear1d reflection_pad1d replication_pad1d "
    "avg_pool1d adaptive_avg_pool1d",
    2: "max_pool2d_with_indices avg_pool2d _adaptive_avg_pool2d adaptive_max_pool2d upsample_nearest2d "
    "_upsample_nearest_exact2d upsample_bilinear2d upsample_bicubic2d _upsample_bilinear2d_aa _upsample_bicubic2d_aa "
    "reflection_pad2d replication_pad2d fractional_max_pool2d grid_sampler_2d",
    3: "max_pool3d_with_indices avg_pool3d _adaptive_avg_pool3d adaptive_max_pool3d upsample_nearest3d "
    "_upsample_nearest_exact3d upsample_trilinear3d reflection_pad3d replication_pad3d fractional_max_pool3d",
}
_CHANNELWISE = (
    "native_batch_norm cudnn_batch_norm miopen_batch_norm _native_batch_norm_legit _batch_norm_with_update "
    "_native_batch_norm_legit_no_training _batch_norm_no_update"
)

RULES: dict[object, Rule] = {
    **dict.fromkeys(operators(_REDUCTIONS), reduction),
    **dict.fromkeys(operators(_ALONG), along),
    **{operator: spatial(count) for count, names in _SPATIAL.items() for operator in operators(names)},
    **dict.fromkeys(operators(_CHANNELWISE), channelwise),
    **dict.fromkeys(operators("native_group_norm"), groupwise),
    **dict.fromkeys(operators("native_layer_norm _fused_rms_norm"), layerwise),
}
