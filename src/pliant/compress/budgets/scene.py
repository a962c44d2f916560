"""A model that is to be cut, as budgets look at it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from torch import nn

from pliant.compress.budgets.knobs import GroupKnob
from pliant.compress.budgets.problem import Knob
from pliant.compress.budgets.products import products_of
from pliant.compress.budgets.terms import LinearTerm, Weight
from pliant.compress.budgets.weights import Ranks, weights_of
from pliant.compress.probe import Probe
from pliant.structure.example import Example


@dataclass(frozen=True, eq=False)
class Scene:
    """A model and what of it can be chosen.

    Args:
        model: the model.
        example: what it can be called with.
        seen: what one run of it showed.
        knobs: channel groups and ranks.
        groups: number of a knob -> the channel group that it counts.
        ranks: layers that can become two.
        shares: removed fraction -> counts, as the compressor itself shares out a fraction.
        skipped: layer name -> why nothing of it can be chosen.
    """

    model: nn.Module
    example: Example
    seen: Probe
    knobs: Sequence[Knob]
    groups: Mapping[int, GroupKnob] = field(default_factory=dict)
    ranks: Ranks = field(default_factory=lambda: Ranks({}))
    shares: Callable[[float], Sequence[int]] | None = None
    skipped: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def weights(self) -> list[Weight]:
        """Return the parameters, each once."""
        return weights_of(self.model, self.seen, self.groups, self.ranks)

    @cached_property
    def products(self) -> list[LinearTerm]:
        """Return the multiply-accumulates that go with groups, besides those of weights."""
        return products_of(self.model, self.example, self.weights, self.groups)
