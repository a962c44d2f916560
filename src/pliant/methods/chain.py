"""Chain: plain layers one after the other, with nothing in between, in the place of one."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import reduce

from torch import Tensor, nn

from pliant.compress.factor import Product, blank_factors, blank_like
from pliant.compress.surgery import in_format_of, replace
from pliant.compress.truncation import decompose
from pliant.structure.copies import fresh_copy
from pliant.structure.matricise import PRUNABLE, axes_of, widths
from pliant.structure.rules import ignored, matrix_layers
from pliant.structure.shared import shared_layers
from pliant.structure.unfit import refuse_unnamed


class Chain(Product):
    """Two or more plain layers in the place of one: its weight as the product of theirs.

        W = W_N ... W_2 W_1

    as matrices with one row per output channel, one a group. The first factor of a convolution keeps its kernel,
    stride, padding, dilation and groups; the others are 1x1 convolutions. The bias is that of the last. A padded border
    stays what it was, since the first factor has no bias.
    """

    def matrices(self) -> Tensor:
        """Return the product, (groups, rows, cols), in float64."""
        factors = [_matrices(factor).double() for factor in self]
        return reduce(lambda product, factor: factor @ product, factors)

    def collapsed(self) -> nn.Module:
        """Return the plain layer of the product."""
        first, last = self[0], self[-1]
        layer = blank_like(first, widths(last)[0], widths(first)[1], widths(first)[2], bias=last.bias is not None)
        _fill(layer, self.matrices(), first.get_parameter("weight"))
        _move_bias(last, layer)
        return layer.train(self.training)


def chain_of(layer: nn.Module, factors: Sequence[Tensor]) -> Chain:
    """Return the chain of a layer.

    Args:
        layer: a convolution or linear layer.
        factors: two or more, from the input to the output: (groups, width, cols), (groups, width, width), ..., (groups,
            rows, width).
    """
    width = factors[0].shape[-2]
    parts = list(blank_factors(layer, width))
    while len(parts) < len(factors):
        parts[-1:] = blank_factors(parts[-1], width)
    for part, matrices in zip(parts, factors, strict=True):
        _fill(part, matrices, layer.get_parameter("weight"))
    _move_bias(layer, parts[-1])
    return Chain(*parts).train(layer.training)


def chained(
    model: nn.Module, make: Callable[[nn.Module], Chain], *, first: bool, last: bool, ignore: Sequence[str]
) -> nn.Module:
    """Return a copy of a model in which chains stand for layers.

    Layers are left alone if a chain could not do what they do: subclasses, layers that share a weight with another, and
    those of rank one.

    Args:
        model: left as it is.
        make: the chain of a layer.
        first: whether the first of these layers is one of them.
        last: whether the last linear layer is one of them.
        ignore: patterns of layer names that are left alone.

    Raises:
        ValueError: if no layer is left, a weight is no parameter but computed from others, or the model is wrapped.
    """
    refuse_unnamed(model)
    layers = dict(list(matrix_layers(model, last=last).items())[0 if first else 1 :])
    shared = shared_layers(model)
    copied = fresh_copy(model)
    for name, layer in ignored(model, layers, ignore).items():
        if name and type(layer) in PRUNABLE and name not in shared and _rank(layer) > 1:
            replace(copied, [name], [make(layer)])
    return copied


def unchained(model: nn.Module) -> nn.Module:
    """Return a copy of a model with a plain layer for every chain."""
    copied = copy.deepcopy(model)
    for name, module in list(copied.named_modules()):
        if isinstance(module, Chain):
            replace(copied, [name], [module.collapsed()])
    return copied


def _matrices(layer: nn.Module) -> Tensor:
    return axes_of(layer, "weight").to_matrices(layer.get_parameter("weight").detach())


def _rank(layer: nn.Module) -> int:
    return min(_matrices(layer).shape[-2:])


def _fill(layer: nn.Module, matrices: Tensor, like: Tensor) -> None:
    weight = layer.get_parameter("weight")
    values = axes_of(layer, "weight").from_matrices(matrices, weight.shape).to(like)
    layer.weight = nn.Parameter(in_format_of(values, like), like.requires_grad)


def _move_bias(old: nn.Module, new: nn.Module) -> None:
    for name, bias in old.named_parameters(recurse=False):
        if name == "bias":
            new.bias = nn.Parameter(bias.detach().clone(), bias.requires_grad)


def decomposed(layer: nn.Module) -> tuple[Tensor, Tensor, Tensor]:
    """Return left (groups, rows, n), values (groups, n), right (groups, n, cols) of a layer's weight, in float64."""
    return decompose(_matrices(layer))
