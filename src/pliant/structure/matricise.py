"""Which axes the parameters of a module have."""

from __future__ import annotations

from dataclasses import replace
from enum import Enum

from torch import nn

from pliant.regions.axes import Axes
from pliant.spec import register

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
PRUNABLE = (nn.Linear, *CONVOLUTIONS, *TRANSPOSED)  # torch's layers whose weight has output channels


def is_layer(module: nn.Module) -> bool:
    """Tell whether a module is a layer whose weight has output channels: a convolution or a linear layer."""
    return isinstance(module, PRUNABLE) or is_input_first(module)


def is_plain_layer(module: nn.Module) -> bool:
    """Tell whether a module is such a layer and no subclass of one of torch's, whose forward may differ."""
    return type(module) in PRUNABLE or is_input_first(module)


def is_linear(module: nn.Module) -> bool:
    """Tell whether a module is a linear layer, whichever way its weight lies."""
    return isinstance(module, nn.Linear) or is_input_first(module)


def is_convolution(module: nn.Module) -> bool:
    """Tell whether a module is a convolution, transposed or not."""
    return isinstance(module, (*CONVOLUTIONS, *TRANSPOSED))


def is_input_first(module: nn.Module) -> bool:
    """Tell whether a module declares itself a linear layer x W + b whose weight has the shape (in, out).

    GPT-2 and its kin are made of such layers (`Conv1D` in transformers). They declare their inputs and outputs as `nx`
    and `nf`, and have a weight of that shape, perhaps a bias of the outputs, and nothing else.
    """
    declared = (vars(module).get("nx"), vars(module).get("nf"))
    if None in declared or any(True for _ in module.children()):
        return False
    shapes = {name: tuple(parameter.shape) for name, parameter in module.named_parameters(recurse=False)}
    return shapes.pop("weight", None) == declared and shapes in ({}, {"bias": declared[1:]})


def widths(layer: nn.Module) -> tuple[int, int, int]:
    """Return the outputs, inputs and groups of a convolution or linear layer.

    Raises:
        TypeError: if the module is neither.
    """
    if isinstance(layer, nn.Linear):
        return layer.out_features, layer.in_features, 1
    if isinstance(layer, (*CONVOLUTIONS, *TRANSPOSED)):
        return layer.out_channels, layer.in_channels, layer.groups
    if is_input_first(layer):
        return vars(layer)["nf"], vars(layer)["nx"], 1
    raise TypeError(f"{type(layer).__name__} is neither a convolution nor a linear layer")


def axes_of(module: nn.Module, name: str) -> Axes:
    """Return how a parameter of a module is read as matrices (rows = output channels).

    Args:
        module: the module that owns the parameter.
        name: the parameter's name inside the module, such as "weight" or "in_proj_weight".
    """
    if name == "weight" and isinstance(module, TRANSPOSED):
        return Axes(out=1, groups=module.groups)
    if name == "weight" and isinstance(module, CONVOLUTIONS):
        return Axes(groups=module.groups)
    if name == "weight" and is_input_first(module):
        return Axes(out=1)
    if isinstance(module, nn.MultiheadAttention) and name in {"in_proj_weight", "in_proj_bias"}:
        return Axes(groups=3)
    if isinstance(module, nn.RNNBase | nn.RNNCellBase) and name.startswith(("weight_ih", "weight_hh")):
        return Axes(groups=_gates(module))
    return Axes()


@register
class Scheme(Enum):
    """Which matrix of a layer has a low rank, and so which two layers it becomes."""

    CHANNEL = "channel"  # out x (in, kernel): the same convolution to fewer channels, then 1x1
    SPATIAL = "spatial"  # (out, last of the kernel) x (in, the others): k x 1, then 1 x k


def check_scheme(scheme: Scheme) -> None:
    """Check what was given as a scheme.

    Raises:
        ValueError: if it is none, for example its name.
    """
    if not isinstance(scheme, Scheme):
        raise ValueError(f"scheme must be one of {', '.join(map(str, Scheme))}, found {scheme!r}")


def axes_in(scheme: Scheme, layer: nn.Module) -> Axes:
    """Return how the weight of a layer is read for a decomposition.

    A layer is read spatially if it is a convolution, not transposed, that is longer than one along the last axis of its
    kernel and along another one.
    """
    axes = axes_of(layer, "weight")
    if scheme is Scheme.CHANNEL or not isinstance(layer, CONVOLUTIONS):
        return axes
    return replace(axes, spatial=layer.kernel_size[-1] > 1 and max(layer.kernel_size[:-1], default=1) > 1)


def _gates(module: nn.Module) -> int:
    if isinstance(module, nn.LSTM | nn.LSTMCell):
        return 4
    return 3 if isinstance(module, nn.GRU | nn.GRUCell) else 1
