"""Which layers a compressor may touch, and why not the others."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.utils.parametrize import ParametrizationList

from pliant.compress.probe import Probe
from pliant.structure.channels.kinds import Layers
from pliant.structure.computed import how_computed
from pliant.structure.matricise import is_convolution, is_input_first, is_layer, is_linear, is_plain_layer
from pliant.structure.norms import NORM_LAYERS
from pliant.structure.patterns import ignored_by, warn_of_unmatched
from pliant.structure.shared import shared_layers

_WAYS_OUT: Mapping[type[nn.Module], str] = {
    nn.MultiheadAttention: " (separate_attention makes linear layers of it)",
    ParametrizationList: "",  # the layer that it belongs to tells how to make it plain
}
_OTHERWISE = " (FilterPruning may cut its channels; as the weight of an nn.Linear it has a rank to cut)"


@dataclass(frozen=True)
class Candidates:
    """The layers to cut, and the others with the reason.

    Args:
        layers: qualified name -> convolution or linear layer.
        skipped: qualified layer or parameter name -> reason.
    """

    layers: Mapping[str, nn.Module]
    skipped: Mapping[str, str]


def find_candidates(model: nn.Module, probe: Probe, kind: Layers, ignore: Sequence[str]) -> Candidates:
    """Sort the layers of a model into those to cut and those to leave.

    Args:
        model: the model.
        probe: what one run of it showed.
        kind: the kinds of layers to cut.
        ignore: patterns of qualified names of layers or of their weights to leave, such as "stages.0.*".
    """
    warn_of_unmatched(model, ignore)
    is_asked = _kind(model, kind)
    shared = shared_layers(model)
    layers, skipped = {}, {}
    for name, module in model.named_modules():
        if not is_layer(module):
            skipped.update(_foreign(name, module))
            continue
        reason = shared.get(name) or _refusal(name, module, probe, ignore)
        if reason is None and not is_asked(module):
            reason = f"{type(module).__name__} is not among the layers asked for ({kind.name})"
        if reason is None:
            layers[name] = module
        else:
            skipped[name] = reason
    return Candidates(layers, skipped)


def _kind(model: nn.Module, kind: Layers) -> Callable[[nn.Module], bool]:
    if kind is Layers.ALL:
        return is_layer
    if kind is Layers.AUTO:
        return is_convolution if any(map(is_convolution, model.modules())) else is_linear
    return is_convolution if kind is Layers.CONVOLUTIONS else is_linear


def _refusal(name: str, module: nn.Module, probe: Probe, ignore: Sequence[str]) -> str | None:
    own = dict(module.named_parameters(recurse=False))
    pattern = ignored_by(ignore, name, f"{name}.weight")
    if pattern is not None:
        return f"matches the ignore pattern {pattern!r}"
    if name not in probe.uses:
        return "its forward is not called on the example (another module may read its weights directly)"
    if name in probe.heads:
        return "an output of the model"
    computed = how_computed(module)
    if computed is not None:
        return computed
    if not torch.isfinite(own["weight"]).all():
        raise ValueError(f"the weight of {name!r} must be finite, found infinite or NaN entries: repair the model")
    return _other_forward(module)


def _other_forward(module: nn.Module) -> str | None:
    if not is_plain_layer(module):
        return f"{type(module).__name__} is a subclass whose forward may differ"
    if is_input_first(module) and not _multiplies(module):
        return f"the forward of {type(module).__name__} is not the product with its weight, plus its bias"
    return None


def _multiplies(layer: nn.Module) -> bool:
    """Tell whether a layer that declares itself x W + b is just that; its class is not torch's."""
    twin = copy.deepcopy(layer).double().cpu().eval()
    own = dict(twin.named_parameters(recurse=False))
    x = torch.arange(2 * len(own["weight"]), dtype=torch.float64).sin().view(2, -1)
    expected = x @ own["weight"] + own.get("bias", 0.0)
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            found = twin.forward(x)  # without hooks
    except Exception:  # noqa: BLE001  (whatever somebody's own forward raises)
        return False
    return isinstance(found, torch.Tensor) and found.shape == expected.shape and torch.allclose(found, expected)


def _foreign(name: str, module: nn.Module) -> dict[str, str]:
    if isinstance(module, NORM_LAYERS):
        return {}
    prefix = f"{name}." if name else ""
    matrices = [n for n, p in module.named_parameters(recurse=False) if p.ndim > 1]
    way_out = _WAYS_OUT.get(type(module), _OTHERWISE)
    reason = f"a parameter of {type(module).__name__}, which is neither convolution nor linear{way_out}"
    return {prefix + n: reason for n in matrices}
