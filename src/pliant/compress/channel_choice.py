"""Which groups of channels a cut may touch, and why not the others."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from torch import nn

from pliant.compress.reading import CutError
from pliant.compress.verify import verify
from pliant.structure.channels import ChannelGroup, Role, channel_graph
from pliant.structure.channels.kinds import Layers, choose_groups
from pliant.structure.computed import how_computed
from pliant.structure.example import Example
from pliant.structure.matricise import axes_of, is_convolution, is_layer
from pliant.structure.shared import shared_layers

_UNCALLED = "its forward is not called on the example: code that does may not fit what was cut"
_UNFOLLOWED = "what its forward makes of its weight is not followed"
_ONE = "it has one channel"
_OUTPUT = "an output of the model"


def choose(
    model: nn.Module, example: Example, *, kind: Layers, ignore: Sequence[str], strict: bool
) -> tuple[list[ChannelGroup], dict[str, str]]:
    """Return the groups to cut, and layer name -> reason for the layers that none of them cuts.

    Args:
        model: the model.
        example: what it can be called with.
        kind: the kinds of layers to cut.
        ignore: patterns of names to leave whole.
        strict: refuse models in which a layer of these kinds cannot be cut.

    Raises:
        CutError: under `strict`.
    """
    graph = channel_graph(model, example)
    choice = choose_groups(model, graph.groups, kind=kind, ignore=ignore)
    reasons = dict(graph.refused)
    for group, reason in choice.aside:
        reasons |= dict.fromkeys(_layers(group), reason)
    exact, failed = verify(model, choice.groups, example)
    for group in choice.groups:
        if group.name in failed:
            reasons |= dict.fromkeys(_layers(group), failed[group.name])
    if strict:
        _refuse(
            model, choice.kinds, {name: reasons[name] for name in reasons if name in graph.refused or name in failed}
        )
    cut = {layer for group in exact for layer in _layers(group)}
    rest = {name: reason for name, reason in reasons.items() if name not in cut}
    unmentioned = _unmentioned(model, {*cut, *rest}, rest, graph.called)
    return exact, unmentioned | {name: rest[name] for name in rest if name.rpartition(".")[0] not in unmentioned}


def _unmentioned(
    model: nn.Module, mentioned: Collection[str], reasons: Mapping[str, str], called: Collection[str]
) -> dict[str, str]:
    """Return why layers whose channels nothing is known about are not cut."""
    shared = shared_layers(model)
    return {
        name: how_computed(module)
        or shared.get(name)
        or (_without_channels(module, reasons.get(f"{name}.weight")) if name in called else _UNCALLED)
        for name, module in model.named_modules()
        if is_layer(module) and name not in mentioned
    }


def _without_channels(layer: nn.Module, reason: str | None) -> str:
    """Return why a layer that runs has no channels that can go: one, or none that are known to be its own."""
    weight = layer.get_parameter("weight")
    return _ONE if axes_of(layer, "weight").channels(weight.shape) == 1 else reason or _UNFOLLOWED


def _layers(group: ChannelGroup) -> list[str]:
    return [member.tensor.removesuffix(".weight") for member in group.of(Role.OUTPUT)]


def _refuse(model: nn.Module, kinds: Collection[Layers | None], reasons: Mapping[str, str]) -> None:
    modules = dict(model.named_modules())
    bad = []
    for name, reason in reasons.items():
        module = modules.get(name)
        kind = Layers.CONVOLUTIONS if module is not None and is_convolution(module) else Layers.LINEARS
        if module is not None and is_layer(module) and kind in kinds and not reason.startswith(_OUTPUT):
            bad.append(f"{name}: {reason}")
    if bad:
        raise CutError(f"these layers cannot be cut, and strict=True leaves none out: {'; '.join(bad)}")
