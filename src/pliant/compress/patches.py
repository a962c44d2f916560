"""Patches: what a layer reads and writes at some of its positions, as rows of numbers."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pliant.structure.matricise import TRANSPOSED, is_linear, widths


def can_be_read(layer: nn.Module) -> bool:
    """Tell whether every output of the layer is one weighted sum of a patch: not so for transposed convolutions."""
    return not isinstance(layer, TRANSPOSED)


def batched(layer: nn.Module, values: Tensor) -> Tensor:
    """Return what a layer reads or writes with a batch dimension, which a single sample may lack."""
    dims = 2 if is_linear(layer) else layer.get_parameter("weight").ndim
    return values[None] if values.ndim == dims - 1 else values


def places(layer: nn.Module, output: Tensor) -> tuple[int, ...]:
    """Return how many positions an output has in each of its dimensions that are neither batch nor channels."""
    shape = batched(layer, output).shape
    return tuple(shape[1:-1] if is_linear(layer) else shape[2:])


def drawn(shape: Sequence[int], count: int, generator: torch.Generator) -> Tensor:
    """Return that many positions, or all where there are no more, as indices, shape (count, dimensions)."""
    total = math.prod(shape)
    chosen = torch.arange(total) if count >= total else torch.randperm(total, generator=generator)[:count].sort()[0]
    if not shape:
        return chosen[:, None][:, :0]
    return torch.stack(torch.unravel_index(chosen, tuple(shape)), dim=1)


def targets(layer: nn.Module, output: Tensor, where: Tensor) -> Tensor:
    """Return the outputs at some positions.

    Args:
        layer: a linear layer or convolution.
        output: shape (batch, *positions, out) or (batch, out, *positions).
        where: shape (count, dimensions).

    Returns:
        shape (groups, batch * count, out / groups).
    """
    groups = widths(layer)[2]
    output = batched(layer, output)
    last = output if is_linear(layer) else output.movedim(1, -1)
    rows = _at(last, where).flatten(0, 1)
    return rows.unflatten(1, (groups, -1)).movedim(1, 0)


def features(layer: nn.Module, inputs: Tensor, where: Tensor) -> Tensor:
    """Return the entries that the outputs at some positions are weighted sums of, in the order of the weight's columns.

    Args:
        layer: a linear layer or convolution.
        inputs: shape (batch, *positions, in) or (batch, in, *positions).
        where: positions of the output, shape (count, dimensions).

    Returns:
        shape (groups, batch * count, columns).
    """
    if is_linear(layer):
        return _at(inputs, where).flatten(0, 1)[None]
    groups = widths(layer)[2]
    padded = _padded(layer, inputs)
    window = zip(layer.kernel_size, layer.stride, layer.dilation, strict=True)  # type: ignore[arg-type]
    reached = [_reached(where, axis, *sizes) for axis, sizes in enumerate(window)]
    patches = padded.flatten(2)[:, :, _flat(reached, padded.shape[2:]).to(inputs.device)]  # (batch, in, count, *kernel)
    rows = patches.movedim(2, 1).flatten(0, 1)
    return rows.unflatten(1, (groups, -1)).movedim(1, 0).flatten(2)


def _reached(where: Tensor, axis: int, kernel: int, stride: int, dilation: int) -> Tensor:
    """Return the places along one axis that each position reads, shape (count, 1, ..., kernel, ..., 1)."""
    reach = where[:, axis, None] * stride + torch.arange(kernel) * dilation
    return reach.view(len(where), *[1] * axis, kernel, *[1] * (where.shape[1] - axis - 1))


def _at(values: Tensor, where: Tensor) -> Tensor:
    """Return (batch, count, channels) of (batch, *positions, channels)."""
    if where.shape[1] == 0:
        return values[:, None]
    return values.flatten(1, -2)[:, _flat(where.unbind(1), values.shape[1:-1]).to(values.device)]


def _flat(places: Sequence[Tensor], shape: Sequence[int]) -> Tensor:
    """Return the index in a flattened tensor of this shape, given the one along each axis."""
    found = places[0]
    for place, size in zip(places[1:], shape[1:], strict=True):
        found = found * size + place
    return found


def _padded(layer: nn.Module, inputs: Tensor) -> Tensor:
    """Pad as the layer does, which may say "same", or pad by other values than zeros."""
    sizes = _padding(layer)
    if not any(sizes):
        return inputs
    mode = str(layer.padding_mode)
    return F.pad(inputs, sizes) if mode == "zeros" else F.pad(inputs, sizes, mode=mode)


def _padding(layer: nn.Module) -> list[int]:
    """Return the padding before and after each dimension, the last dimension first, as `F.pad` takes it."""
    if layer.padding == "valid":
        return []
    if layer.padding == "same":
        spans = [d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]  # type: ignore[arg-type]
        pairs = [(span // 2, span - span // 2) for span in spans]
    else:
        pairs = [(size, size) for size in layer.padding]  # type: ignore[union-attr]
    return list(itertools.chain.from_iterable(reversed(pairs)))
