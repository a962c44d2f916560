"""Multiply-accumulates that belong to no layer: products of activations, which go with attention heads."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

from torch import nn

from pliant.compress.budgets.knobs import GroupKnob
from pliant.compress.budgets.problem import Problem
from pliant.compress.budgets.terms import LinearTerm, Weight, WeightTerm
from pliant.compress.predict import predicted_macs
from pliant.compress.slices import remove_slices
from pliant.metrics.size import macs_by_module
from pliant.structure.example import Example
from pliant.structure.matricise import is_layer


def products_of(
    model: nn.Module, example: Example, weights: Sequence[Weight], groups: Mapping[int, GroupKnob]
) -> list[LinearTerm]:
    """Return what the atoms of each group take with them besides their weights.

    Where weights do not explain all multiply-accumulates of a model, it is counted without half of the atoms of each
    group nearby, one group after the other.

    Args:
        model: the model.
        example: what it can be called with.
        weights: its parameters.
        groups: number of a knob -> the channel group that it counts.
    """
    full = [0] * (max(groups, default=-1) + 1)
    for index, knob in groups.items():
        full[index] = knob.group.atoms
    explained = Problem([], [WeightTerm(weight.whole, per_entry=0, per_use=1) for weight in weights])
    dense = predicted_macs(model, example)
    if dense == explained.cost(full):
        return []
    places = _unexplained(model, example)
    terms = []
    for index, knob in groups.items():
        if any(_is_near(knob, place) for place in places):
            half = knob.group.atoms - max(1, knob.group.atoms // 2)
            counts = [*full[:index], half, *full[index + 1 :]]
            saved = dense - predicted_macs(_without(model, knob, half), example)
            beyond = saved - (explained.cost(full) - explained.cost(counts))
            terms.append(LinearTerm(index, beyond / (knob.group.atoms - half)))
    return [term for term in terms if term.per_atom > 0]


def _unexplained(model: nn.Module, example: Example) -> list[str]:
    """Return the modules that multiply, without being convolutions or linear layers."""
    modules = dict(model.named_modules())
    shares = macs_by_module(model, example)
    return [name for name, macs in shares.items() if macs and not is_layer(modules[name])]


def _is_near(knob: GroupKnob, place: str) -> bool:
    layers = (member.layer for member in knob.group.members)
    return not place or any(layer == place or layer.startswith(f"{place}.") for layer in layers)


def _without(model: nn.Module, knob: GroupKnob, stay: int) -> nn.Module:
    smaller = copy.deepcopy(model)
    remove_slices(smaller, [knob.group], {knob.group.name: sorted(knob.order[knob.group.atoms - stay :])})
    return smaller
