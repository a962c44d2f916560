"""From a model to its weights as budgets see them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from pliant.compress.budgets.knobs import GroupKnob
from pliant.compress.budgets.problem import Counts
from pliant.compress.budgets.terms import Extent, Split, Weight
from pliant.compress.factor import first_uses
from pliant.compress.probe import Probe
from pliant.structure.matricise import Scheme, axes_in


@dataclass(frozen=True)
class Ranks:
    """Layers that can become two.

    Args:
        knobs: layer name -> number of the knob that counts its rank.
        scheme: which matrix has that rank.
    """

    knobs: Mapping[str, int]
    scheme: Scheme = Scheme.CHANNEL


def weights_of(model: nn.Module, seen: Probe, groups: Mapping[int, GroupKnob], ranks: Ranks) -> list[Weight]:
    """Describe every parameter of a model.

    Args:
        model: the model.
        seen: what one run of it showed.
        groups: number of a knob -> the channel group that it counts.
        ranks: layers that can become two.
    """
    lost = _lost(groups)
    uses, splits = _layers(model, seen, ranks)
    return [
        Weight(
            name=name,
            extents=tuple(Extent(size, tuple(lost.get((name, dim), ()))) for dim, size in enumerate(tensor.shape)),
            uses=uses.get(name, 0),
            split=splits.get(name),
        )
        for name, tensor in model.named_parameters()
    ]


def _lost(groups: Mapping[int, GroupKnob]) -> Mapping[tuple[str, int], list[tuple[int, Counts]]]:
    lost: dict[tuple[str, int], list[tuple[int, Counts]]] = defaultdict(list)
    for index, knob in groups.items():
        for member in knob.group.members:
            lost[member.tensor, member.dim].append((index, knob.lost(member.positions)))
    return lost


def _layers(model: nn.Module, seen: Probe, ranks: Ranks) -> tuple[dict[str, int], dict[str, Split]]:
    """Return for the weights of layers how often an entry is used, and how the layer can become two."""
    modules = dict(model.named_modules())
    first = {id(tensor): name for name, tensor in model.named_parameters()}
    uses: dict[str, int] = defaultdict(int)
    splits = {}
    for layer, use in seen.uses.items():
        own = dict(modules[layer].named_parameters(recurse=False))
        if "weight" not in own:
            continue
        name = first[id(own["weight"])]
        uses[name] += use.entry_uses(modules[layer])
        if layer in ranks.knobs:
            axes = axes_in(ranks.scheme, modules[layer])
            reads = first_uses(modules[layer], use, ranks.scheme)
            splits[name] = Split(ranks.knobs[layer], axes, reads, use.outputs)
    return uses, splits
