"""Weights that are computed before each call, and how to make plain parameters of them."""

from __future__ import annotations

from torch import nn
from torch.nn.utils.parametrize import is_parametrized
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

_REMEDIES = (
    (WeightNorm, "torch.nn.utils.remove_weight_norm(layer)"),
    (SpectralNorm, "torch.nn.utils.remove_spectral_norm(layer)"),
    (BasePruningMethod, 'torch.nn.utils.prune.remove(layer, "weight")'),
)


def how_computed(layer: nn.Module) -> str | None:
    """Return in words how the weight of a layer is computed, and what makes it plain; None if it is plain."""
    if is_parametrized(layer, "weight"):
        remedy = 'torch.nn.utils.parametrize.remove_parametrizations(layer, "weight")'
        return f"its weight is parametrised: it is computed before each call; {remedy} makes it plain"
    if "weight" in dict(layer.named_parameters(recurse=False)):
        return None
    for hook in layer._forward_pre_hooks.values():  # noqa: SLF001  (no public way)
        for kind, remedy in _REMEDIES:
            if isinstance(hook, kind):
                return f"its weight is no plain parameter: a hook computes it before each call; {remedy} makes it plain"
    return "its weight is no plain parameter: it is computed before each call"
