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

    Where weights do not explain all multiply-accumulates of a model, it is counted without half of the atoms of the
    groups nearby: of all of them, and, where that takes more than weights, of ever fewer, down to each one alone.

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
    near = [index for index, knob in groups.items() if any(_is_near(knob, place) for place in places)]

    def terms(some: Sequence[int]) -> list[LinearTerm]:
        if not some:
            return []
        counts = [_half(groups[index]) if index in some else count for index, count in enumerate(full)]
        saved = dense - predicted_macs(_without(model, [groups[index] for index in some]), example)
        beyond = saved - (explained.cost(full) - explained.cost(counts))
        if beyond <= 0:
            return []
        if len(some) == 1:
            return [LinearTerm(some[0], beyond / (full[some[0]] - counts[some[0]]))]
        middle = len(some) // 2
        return [*terms(some[:middle]), *terms(some[middle:])]

    return terms(near)


def _unexplained(model: nn.Module, example: Example) -> list[str]:
    """Return the modules that multiply, without being convolutions or linear layers."""
    modules = dict(model.named_modules())
    shares = macs_by_module(model, example)
    return [name for name, macs in shares.items() if macs and not is_layer(modules[name])]


def _is_near(knob: GroupKnob, place: str) -> bool:
    layers = (member.layer for member in knob.group.members)
    return not place or any(layer == place or layer.startswith(f"{place}.") for layer in layers)


def _half(knob: GroupKnob) -> int:
    return knob.group.atoms - max(1, knob.group.atoms // 2)


def _without(model: nn.Module, knobs: Sequence[GroupKnob]) -> nn.Module:
    """Return the model with half of the atoms of some groups."""
    smaller = copy.deepcopy(model)
    kept = {knob.group.name: sorted(knob.order[knob.group.atoms - _half(knob) :]) for knob in knobs}
    remove_slices(smaller, [knob.group for knob in knobs], kept)
    return smaller
