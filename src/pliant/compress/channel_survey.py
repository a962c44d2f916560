"""What of a model's channels can go, in which order, and how many at a fraction or within a budget."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from pliant.compress.atoms import Scope
from pliant.compress.budgets.knobs import GroupKnob, given_knob, group_knob
from pliant.compress.budgets.problem import Knob
from pliant.compress.verify import needed
from pliant.structure.channels import ChannelGroup

_ALL = 1.0 - 1e-9  # a scope is asked for this fraction to learn what it always keeps


@dataclass(frozen=True, eq=False)
class ChannelSurvey:
    """Channel groups with the scores of their atoms.

    Args:
        groups: that can be cut.
        skipped: layer name -> why it cannot.
        scores: of the atoms of each group, shape (atoms,).
        scope: over what the atoms compete, in units of the root mean square of their group unless `absolute`.
        round_to: channels of which a multiple stays.
        absolute: whether scores can be compared across groups, and their squares are losses that add up.
    """

    groups: Sequence[ChannelGroup]
    skipped: Mapping[str, str]
    scores: Sequence[Tensor]
    scope: Scope
    round_to: int
    absolute: bool = False

    @cached_property
    def orders(self) -> list[GroupKnob]:
        """Return the groups with the order in which their atoms leave; what members need one of leaves last."""
        pairs = zip(self.groups, self.scores, self._needed, strict=True)
        return [
            GroupKnob(group, sorted(scores.argsort(stable=True).tolist(), key=last.__contains__))
            for group, scores, last in pairs
        ]

    @cached_property
    def knobs(self) -> list[Knob]:
        """Return the groups as knobs of a budget."""
        found = []
        for one, scores, low in zip(self.orders, self.scores, self.shares(_ALL), strict=True):
            levels = range(low, one.group.atoms, step_of(one.group, self.round_to))
            knob = given_knob if self.absolute else group_knob
            found.append(knob(one.group, scores, one.order, [*levels, one.group.atoms]))
        return found

    def shares(self, fraction: float) -> list[int]:
        """Return how many atoms of each group stay at a fraction, multiples where that is asked for."""
        masks = self.scope.removed(self.scores if self.absolute else [_relative(one) for one in self.scores], fraction)
        counts = []
        for group, mask, last in zip(self.groups, masks, self._needed, strict=True):
            kept = last.union(torch.logical_not(mask).nonzero().flatten().tolist())
            step = step_of(group, self.round_to)
            counts.append(min(group.atoms, -(-len(kept) // step) * step))
        return counts

    def kept(self, counts: Sequence[int]) -> dict[str, tuple[int, ...]]:
        """Return group name -> atoms that stay, ascending.

        Args:
            counts: how many, per group.
        """
        pairs = zip(self.orders, counts, strict=True)
        return {one.group.name: tuple(sorted(one.order[len(one.order) - count :])) for one, count in pairs}

    @cached_property
    def _needed(self) -> list[set[int]]:
        pairs = zip(self.groups, self.scores, strict=True)
        return [needed(group, scores.argsort(stable=True).flip(0).tolist()) for group, scores in pairs]


def step_of(group: ChannelGroup, round_to: int) -> int:
    """Return of how many atoms a multiple must stay, for a multiple of so many channels."""
    return round_to // math.gcd(round_to, group.members[0].positions.total // group.atoms)


def _relative(scores: Tensor) -> Tensor:
    mean = scores.square().mean().sqrt()
    return scores / mean if mean > 0 else torch.zeros_like(scores)
