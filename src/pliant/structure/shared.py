"""Weights that several modules share: what is done to one of them is done to all."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence

from torch import nn

from pliant.structure.patterns import ignored_by

_LOG = logging.getLogger(__name__)


def shared_layers(model: nn.Module) -> dict[str, str]:
    """Return name -> reason for every layer whose module or weight the model uses under several names."""
    owners: dict[int, list[str]] = defaultdict(list)
    for name, module in model.named_modules(remove_duplicate=False):
        for _, parameter in module.named_parameters(recurse=False):
            owners[id(parameter)].append(name)
    reasons = {}
    for names in owners.values():
        for name in names:
            others = sorted(set(names) - {name})
            if others:
                reasons[name] = f"shares its weights with {', '.join(others)}"
    return reasons


def without_shared(model: nn.Module, layers: Mapping[str, nn.Module]) -> dict[str, nn.Module]:
    """Return the layers that share nothing with another, or with themselves under another name; the others are logged.

    Raises:
        ValueError: if none is left.
    """
    shared = shared_layers(model)
    return _without(layers, {name: reason for name, reason in shared.items() if name in layers})


def without_foreign(model: nn.Module, layers: Mapping[str, nn.Module], ignore: Sequence[str]) -> dict[str, nn.Module]:
    """Return the layers that share their weight, if at all, with others of them; what is left out is logged.

    Where a weight is also that of an embedding, of the output layer or of a layer that is ignored, it is none of the
    layers' alone to constrain or to cut.

    Args:
        model: the model.
        layers: some of its layers, by name.
        ignore: patterns of names of layers and tensors that are to be left alone.

    Raises:
        ValueError: if none is left.
    """
    chosen, foreign = set(layers.values()), defaultdict(list)
    for prefix, module in model.named_modules(remove_duplicate=False):
        for local, parameter in module.named_parameters(recurse=False):
            name = f"{prefix}.{local}" if prefix else local
            if module not in chosen or local != "weight" or ignored_by(ignore, prefix, name):
                foreign[id(parameter)].append(name)
    weights = {name: foreign[id(layer.get_parameter("weight"))] for name, layer in layers.items()}
    return _without(layers, {name: f"its weight is that of {', '.join(of)} too" for name, of in weights.items() if of})


def _without(layers: Mapping[str, nn.Module], reasons: Mapping[str, str]) -> dict[str, nn.Module]:
    for name, reason in reasons.items():
        _LOG.info("no ball holds the weight of %s: %s", name, reason)
    left = {name: layer for name, layer in layers.items() if name not in reasons}
    if not left:
        told = "; ".join(f"{name}: {reason}" for name, reason in reasons.items())
        raise ValueError(f"no layer is left to constrain: what is shared is left alone ({told})")
    return left
