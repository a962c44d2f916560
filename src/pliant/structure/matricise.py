"""Which axes the parameters of a module have."""

from __future__ import annotations

from torch import nn

from pliant.regions.axes import Axes

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
PRUNABLE = (nn.Linear, *CONVOLUTIONS, *TRANSPOSED)  # layers whose weight has output channels


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
    if isinstance(module, nn.MultiheadAttention) and name in {"in_proj_weight", "in_proj_bias"}:
        return Axes(groups=3)
    if isinstance(module, nn.RNNBase | nn.RNNCellBase) and name.startswith(("weight_ih", "weight_hh")):
        return Axes(groups=_gates(module))
    return Axes()


def _gates(module: nn.Module) -> int:
    if isinstance(module, nn.LSTM | nn.LSTMCell):
        return 4
    return 3 if isinstance(module, nn.GRU | nn.GRUCell) else 1
