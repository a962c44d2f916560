"""Tensor trains within a budget: every bond is a knob, every layer a term of the cost."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor, nn

from pliant.compress.bonds import Bonds, Ranks
from pliant.compress.budgets import Budget, BudgetError, Macs, Params
from pliant.compress.budgets.knobs import rank_knob
from pliant.compress.budgets.problem import Counted, Counts, Numbers, Problem, Term
from pliant.compress.budgets.record import BudgetRecord
from pliant.compress.budgets.solve import solution
from pliant.compress.probe import Use
from pliant.structure.example import Example
from pliant.tensor_train import admissible


@dataclass(frozen=True)
class Scenery:
    """The layers of a model that can become trains.

    Args:
        model: the model.
        example: what it can be called with.
        layers: name -> layer.
        uses: name -> how it is used.
        bonds: name -> how its weight is read.
        spectra: singular values of all bonds, layer after layer, shapes (1, n).
        skipped: name of another layer -> why it stays.
    """

    model: nn.Module
    example: Example
    layers: Mapping[str, nn.Module]
    uses: Mapping[str, Use]
    bonds: Mapping[str, Bonds]
    spectra: Sequence[Tensor]
    skipped: Mapping[str, str]

    def ranks(self, counts: Sequence[int]) -> dict[str, Ranks]:
        """Return the ranks of each layer, from those of all bonds; what the neighbours cannot use is lowered."""
        left = iter(counts)
        return {name: admissible(of.modes.sizes, [next(left) for _ in of.full]) for name, of in self.bonds.items()}


def within(
    budget: Budget,
    scenery: Scenery,
    shares: Callable[[float], Sequence[int]],
    minimum: int,
    build: Callable[[Mapping[str, Ranks]], nn.Module] | None = None,
) -> tuple[dict[str, Ranks], BudgetRecord]:
    """Return ranks that meet a budget, shared out over the bonds by the budget's allocation, and its record.

    Args:
        budget: of MACs or of parameters.
        scenery: what can be chosen.
        shares: removed fraction -> ranks of all bonds, as the compressor itself shares out a fraction.
        minimum: smallest rank of a bond.
        build: returns the cut model with such ranks, where what it costs must be measured (see `solution`).

    Raises:
        BudgetError: if the budget is of something else, or cannot be met.
    """
    if not isinstance(budget, Macs | Params):
        raise BudgetError(f"tensor trains can be cut to a number of MACs or of parameters, found {budget}")
    shares(0.0)  # a rule that has a level of its own refuses
    knobs = [rank_knob(str(bond), values, minimum) for bond, values in enumerate(scenery.spectra)]
    terms, start = [], 0
    for name, of in scenery.bonds.items():
        places = range(start, start + len(of.full))
        terms.append(_TrainTerm(places, of, scenery.layers[name], scenery.uses[name], isinstance(budget, Macs)))
        start = places.stop
    dense = budget.measure(scenery.model, scenery.example)
    problem = Problem(knobs, terms, dense, shares)
    measure = None if build is None else lambda counts: budget.measure(build(scenery.ranks(counts)), scenery.example)
    found = solution(problem, budget, dense, scenery.skipped, measure)
    return scenery.ranks(found.counts), found.record


@dataclass(frozen=True, eq=False)
class _TrainTerm(Term):
    """What a train saves of one layer, as a negative cost, depending on the ranks of its bonds."""

    places: range
    bonds: Bonds
    layer: nn.Module
    use: Use
    of_macs: bool
    _known: dict[Ranks, int] = field(default_factory=dict, repr=False)

    @property
    def knobs(self) -> frozenset[int]:
        return frozenset(self.places)

    def cost(self, counts: Sequence[Counted]) -> float | Numbers | Counts:
        own = np.broadcast_arrays(*(counts[place] for place in self.places))
        costs = [self._at(tuple(map(int, ranks))) for ranks in zip(*(one.ravel() for one in own), strict=True)]
        return np.array(costs, dtype=np.float64).reshape(own[0].shape)

    def _at(self, wanted: Ranks) -> int:
        ranks = admissible(self.bonds.modes.sizes, wanted)
        if ranks not in self._known:
            saved = self.bonds.saved(self.layer, ranks, self.use)
            self._known[ranks] = -(saved.macs if self.of_macs else saved.parameters)
        return self._known[ranks]
