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


# What a weight is computed from by torch's hooks: the old weight norm; the old spectral norm and torch.nn.utils.prune.
_BEHIND_WEIGHT = ("weight_g", "weight_orig")


def is_computed(layer: nn.Module) -> bool:
    """Tell whether the weight of a layer is computed by a parametrization or a hook of torch."""
    # Looking at a parametrized weight computes it, which under spectral norm changes the model: names alone decide.
    own = layer._parameters.keys()  # noqa: SLF001  (no public way)
    return is_parametrized(layer, "weight") or not own.isdisjoint(_BEHIND_WEIGHT)


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
