"""Low-rank algebra of single layers: spectra, truncation, and the split into two plain layers."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from functools import reduce
from operator import add, mul

import torch
from torch import Tensor, nn

from pliant.compress.probe import Use
from pliant.compress.surgery import in_format_of
from pliant.compress.truncation import decompose, truncated
from pliant.regions.axes import Axes
from pliant.structure.matricise import (
    CONVOLUTIONS,
    TRANSPOSED,
    Scheme,
    axes_in,
    axes_of,
    is_input_first,
    is_linear,
    widths,
)


def spectrum(layer: nn.Module, scheme: Scheme = Scheme.CHANNEL) -> Tensor:
    """Return the singular values of a layer's matrices, descending, shape (groups, n), in float64 on the CPU.

    What lies at the rounding level of the weights is exactly 0: a weight that training made low-rank is low-rank.
    """
    matrices = _matrices(layer, scheme)
    values = decompose(matrices)[1].cpu()
    rounding = min(torch.finfo(matrices.dtype).eps, torch.finfo(torch.float32).eps)
    floor = rounding * max(matrices.shape[-2:]) * values.amax((-2, -1), keepdim=True)
    return torch.where(values > floor, values, 0.0)


def rank_of(layer: nn.Module, scheme: Scheme = Scheme.CHANNEL) -> int:
    """Return the largest possible rank of a layer's matrices."""
    return min(_matrices(layer, scheme).shape[-2:])


def truncate_weight(layer: nn.Module, rank: int, scheme: Scheme = Scheme.CHANNEL) -> None:
    """Replace a layer's weight, in place, by its best approximation of a rank; rows and columns of zeros stay zero."""
    weight = layer.get_parameter("weight")
    best = truncated(_matrices(layer, scheme), rank).matrices
    with torch.no_grad():
        weight.copy_(axes_in(scheme, layer).from_matrices(best, weight.shape))


def split_cost(layer: nn.Module, rank: int, use: Use, scheme: Scheme = Scheme.CHANNEL) -> tuple[int, int]:
    """Return parameters (bias left out) and MACs of the two layers that replace one.

    Args:
        layer: the layer.
        rank: rank per group.
        use: how the layer is used.
        scheme: which matrix has that rank.
    """
    groups, rows, cols = _matrices(layer, scheme).shape
    first, second = groups * rank * cols, groups * rank * rows
    return first + second, first * first_uses(layer, use, scheme) + second * use.outputs


def first_uses(layer: nn.Module, use: Use, scheme: Scheme) -> int:
    """Return how often each weight entry of the first of the two layers is multiplied."""
    return use.between if axes_in(scheme, layer).spatial else use.entry_uses(layer)


def _of(index: int, name: str) -> property:
    return property(lambda factors: getattr(factors[index], name))


def _joint(name: str, join: Callable[[int, int], int]) -> property:
    """Return what a layer has for each axis of its kernel, from what the layers in its place have."""

    def joined(layers: nn.Sequential) -> tuple[int, ...] | str:
        numbers = [getattr(layer, name) for layer in layers]
        if isinstance(numbers[0], str):
            return numbers[0]
        return tuple(reduce(join, axis) for axis in zip(*numbers, strict=True))

    return property(joined)


class Product(nn.Sequential):
    """Plain layers, one after the other with nothing in between, in the place of one.

    Models that read numbers off a layer find here those of the layer that was replaced.
    """

    in_features, out_features = _of(0, "in_features"), _of(-1, "out_features")
    nx, nf = in_features, out_features
    in_channels, out_channels, groups = _of(0, "in_channels"), _of(-1, "out_channels"), _of(0, "groups")
    kernel_size, stride, dilation = _joint("kernel_size", max), _joint("stride", mul), _joint("dilation", max)
    padding, padding_mode = _joint("padding", add), _of(0, "padding_mode")
    bias = _of(-1, "bias")

    @property
    def weight(self) -> Tensor:
        """Return the product of linear layers, (out, in), which `nn.TransformerEncoder` asks whether it learns.

        Raises:
            AttributeError: if they are convolutions.
        """
        weights: list[Tensor] = [layer.get_parameter("weight") for layer in self]
        if weights[0].ndim > 2:
            raise AttributeError("convolutions have no weight of one")
        return reduce(lambda product, weight: weight @ product, weights)

    # TorchScript would compile all of them, for a forward that reads none.
    __jit_unused_properties__ = tuple(name for name, value in locals().items() if isinstance(value, property))


class Factors(Product):
    """Two plain layers in the place of one; the type tells that they are a decomposition."""

    @property
    def spatial(self) -> bool:
        """Whether each of the two goes along a part of the kernel's axes; the second is pointwise if not."""
        return max(getattr(self[1], "kernel_size", (1,))) > 1

    __jit_unused_properties__ = (*Product.__jit_unused_properties__, "spatial")


def split(layer: nn.Module, rank: int, scheme: Scheme = Scheme.CHANNEL) -> Factors:
    """Return two plain layers, one after the other, with the function of `truncate_weight` at this rank.

    A convolution becomes the same convolution to `rank` channels per group and a 1x1 convolution with the old bias, or
    one along all axes of the kernel but the last and one along the last; a linear layer becomes two. Both factors carry
    the square root of the singular values.
    """
    axes = axes_in(scheme, layer)
    left, values, right = decompose(_matrices(layer, scheme))
    root = values[..., :rank].sqrt()
    factors = blank_factors(layer, rank, scheme)
    _fill(factors[0], root[..., None] * right[..., :rank, :], layer, axes_of(factors[0], "weight"))
    second = replace(axes_of(factors[1], "weight"), spatial=axes.spatial)
    _fill(factors[1], left[..., :rank] * root[..., None, :], layer, second)
    _move_bias(layer, factors[1])
    return factors.train(layer.training)


def unsplit(factors: nn.Module) -> nn.Module:
    """Return the convolution whose `Factors` along one part of the axes of its kernel each these are."""
    first, second = factors.get_submodule("0"), factors.get_submodule("1")
    outputs, inputs, groups = widths(second)[0], widths(first)[1], widths(first)[2]
    options = {name: getattr(factors, name) for name in _OPTIONS}
    layer = _blank(type(first), first, inputs, outputs, groups=groups, bias=second.bias is not None, **options)
    spatial = replace(axes_of(first, "weight"), spatial=True)
    left = spatial.to_matrices(second.get_parameter("weight").detach()).double()
    right = _matrices(first, Scheme.CHANNEL).double()
    _fill(layer, left @ right, first, spatial)
    _move_bias(second, layer)
    return layer.train(factors.training)


def blank_factors(layer: nn.Module, rank: int, scheme: Scheme = Scheme.CHANNEL) -> Factors:
    """Return the two layers without values, on the meta device."""
    outputs, inputs, groups = widths(layer)
    biased = "bias" in dict(layer.named_parameters(recurse=False))
    if is_linear(layer):
        first = _blank(nn.Linear, layer, inputs, rank, bias=False)
        return Factors(first, _blank(nn.Linear, layer, rank, outputs, bias=biased))
    if axes_in(scheme, layer).spatial:
        sizes = (inputs, rank * groups), (rank * groups, outputs)
        halves = zip(sizes, (slice(None, -1), slice(-1, None)), (False, biased), strict=True)
        return Factors(*(_along(axes, layer, *size, groups, bias=bias) for size, axes, bias in halves))
    first = blank_like(layer, rank * groups, inputs, groups, bias=False)
    pointwise = CONVOLUTIONS[layer.get_parameter("weight").ndim - 3]
    second = _blank(pointwise, layer, rank * groups, outputs, kernel_size=1, groups=groups, bias=biased)
    return Factors(first, second)


def _along(axes: slice, layer: nn.Module, inputs: int, outputs: int, groups: int, *, bias: bool) -> nn.Module:
    """Return a convolution that does along some axes of the kernel what a layer does, and nothing along the others."""
    options = {name: getattr(layer, name) for name in _OPTIONS}
    for name, nothing in _NOTHING.items():
        if not isinstance(options[name], str):
            alone = [nothing] * len(options[name])
            alone[axes] = options[name][axes]
            options[name] = tuple(alone)
    return _blank(type(layer), layer, inputs, outputs, groups=groups, bias=bias, **options)


_NOTHING = {"kernel_size": 1, "stride": 1, "padding": 0, "dilation": 1}


def blank_like(layer: nn.Module, outputs: int, inputs: int, groups: int, *, bias: bool) -> nn.Module:
    """Return the same layer with other numbers of channels, without values, on the meta device."""
    if isinstance(layer, nn.Linear):
        return _blank(nn.Linear, layer, inputs, outputs, bias=bias)
    if is_input_first(layer):
        return _blank_input_first(layer, inputs, outputs)
    options = {name: getattr(layer, name) for name in _OPTIONS}
    if isinstance(layer, TRANSPOSED):
        options["output_padding"] = layer.output_padding
    return _blank(type(layer), layer, inputs, outputs, groups=groups, bias=bias, **options)


def _blank_input_first(layer: nn.Module, inputs: int, outputs: int) -> nn.Module:
    blank = copy.deepcopy(layer).to("meta")
    sizes = {"weight": (inputs, outputs), "bias": (outputs,)}
    for name, parameter in list(blank.named_parameters(recurse=False)):
        setattr(blank, name, nn.Parameter(parameter.new_empty(sizes[name]), parameter.requires_grad))
    vars(blank).update(nx=inputs, nf=outputs)
    return blank


_OPTIONS = ("kernel_size", "stride", "padding", "dilation", "padding_mode")


def _blank(kind: type[nn.Module], like: nn.Module, *sizes: object, **options: object) -> nn.Module:
    """Build a layer without initialising it: its tensors are set later, the global random state stays where it is."""
    return kind(*sizes, **options, device="meta", dtype=like.get_parameter("weight").dtype)


def _fill(module: nn.Module, matrices: Tensor, old: nn.Module, axes: Axes) -> None:
    weight = module.get_parameter("weight")
    like = old.get_parameter("weight")
    values = axes.from_matrices(matrices, weight.shape).to(weight.dtype)
    module.weight = nn.Parameter(in_format_of(values, like), like.requires_grad)


def _move_bias(old: nn.Module, new: nn.Module) -> None:
    for name, bias in old.named_parameters(recurse=False):
        if name == "bias":
            new.bias = nn.Parameter(bias.detach().clone(), bias.requires_grad)


def _matrices(layer: nn.Module, scheme: Scheme) -> Tensor:
    return axes_in(scheme, layer).to_matrices(layer.get_parameter("weight").detach())
