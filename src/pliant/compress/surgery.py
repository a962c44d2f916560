"""Taking channels out of single modules, in place, every other attribute kept."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from pliant.structure.matricise import CONVOLUTIONS, TRANSPOSED

_PER_CHANNEL = ("weight", "bias", "running_mean", "running_var")


def zero_outputs(layer: nn.Module, removed: Tensor) -> None:
    """Set filters and biases to zero.

    Args:
        layer: a convolution or linear layer.
        removed: indices of output channels.
    """
    with torch.no_grad():
        weight = layer.get_parameter("weight")
        if isinstance(layer, TRANSPOSED):
            width = weight.shape[1]  # output channel i is column i % width of block i // width
            blocks = torch.unflatten(weight, 0, (layer.groups, -1))
            blocks[removed // width, :, removed % width] = 0.0
        else:
            weight[removed] = 0.0
        for name, bias in layer.named_parameters(recurse=False):
            if name == "bias":
                bias[removed] = 0.0


def zero_norm(norm: nn.Module, removed: Tensor) -> None:
    """Make channels of a norm layer emit zero for zero input: scale, shift and running mean become zero."""
    with torch.no_grad():
        for name, tensor in (*norm.named_parameters(recurse=False), *norm.named_buffers(recurse=False)):
            if name in {"weight", "bias", "running_mean"}:
                tensor[removed] = 0.0


def keep_outputs(layer: nn.Module, kept: Tensor) -> None:
    """Keep only some output channels of an ungrouped convolution or of a linear layer."""
    _slice(layer, "weight", 1 if isinstance(layer, TRANSPOSED) else 0, kept)
    _slice(layer, "bias", 0, kept)
    if isinstance(layer, nn.Linear):
        layer.out_features = len(kept)
    elif isinstance(layer, (*CONVOLUTIONS, *TRANSPOSED)):
        layer.out_channels = len(kept)


def keep_inputs(layer: nn.Module, kept: Tensor) -> None:
    """Keep only some input channels of an ungrouped convolution, or input features of a linear layer."""
    _slice(layer, "weight", 0 if isinstance(layer, TRANSPOSED) else 1, kept)
    if isinstance(layer, nn.Linear):
        layer.in_features = len(kept)
    elif isinstance(layer, (*CONVOLUTIONS, *TRANSPOSED)):
        layer.in_channels = len(kept)


def keep_norm(norm: nn.Module, kept: Tensor) -> None:
    """Keep only some channels of a batch or instance norm, running statistics included."""
    for name in _PER_CHANNEL:
        _slice(norm, name, 0, kept)
    if isinstance(norm, _BatchNorm | _InstanceNorm):
        norm.num_features = len(kept)


def in_format_of(x: Tensor, like: Tensor) -> Tensor:
    """Return `x` in the memory format of `like` (channels last, or contiguous)."""
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    last = formats.get(like.ndim)
    if last is not None and like.is_contiguous(memory_format=last) and not like.is_contiguous():
        return x.contiguous(memory_format=last)
    return x.contiguous()


def replace(model: nn.Module, names: Sequence[str], modules: Sequence[nn.Module]) -> None:
    """Put modules in the places of others, in place."""
    for name, module in zip(names, modules, strict=True):
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, module)


def _slice(module: nn.Module, name: str, dim: int, kept: Tensor) -> None:
    old = getattr(module, name, None)
    if old is None:
        return
    new = in_format_of(old.detach().index_select(dim, kept.to(old.device)), old)
    setattr(module, name, nn.Parameter(new, old.requires_grad) if isinstance(old, nn.Parameter) else new)
