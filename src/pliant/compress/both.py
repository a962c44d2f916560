"""Both: channels go first, then the rank of what is left."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TypeVar

from torch import nn

from pliant.compress.budgets import Budget, BudgetRecord
from pliant.compress.budgets.allocation import BudgetError
from pliant.compress.budgets.scene import Scene
from pliant.compress.budgets.solve import solve
from pliant.compress.budgets.terms import matrices
from pliant.compress.budgets.weights import Ranks
from pliant.compress.chooser import Chooser, chooser
from pliant.compress.compressor import Compressor, check_request, options_of
from pliant.compress.cut import Cut, CutError
from pliant.compress.factor import rank_of, spectrum, truncate_weight
from pliant.compress.filters import ChannelChooser, FilterPruning
from pliant.compress.low_rank import LowRank
from pliant.compress.probe import probe
from pliant.spec import register
from pliant.structure.example import Example
from pliant.structure.matricise import is_layer

_LOG = logging.getLogger(__name__)
_RANK = ".rank"  # after the name of a layer, which has no parts of its own: no other name ends so

T = TypeVar("T")


@register
@dataclass(frozen=True)
class Both(Compressor):
    """Remove channels, then rank-one terms of the layers that are left.

    A fraction applies to both: it removes that share of the channels, and then that share of the ranks. A budget is
    met by channels first and then by ranks, which are chosen from the singular values that the channels left have.

    The cut holds the two cuts in `parts`, the second of the model that the first one realises. Its `atoms` count the
    channels by the names of their groups, and the ranks by the names of the layers with ".rank" behind.

    Args:
        filters: how channels are cut.
        low_rank: how ranks are cut.
        split: under a budget, how much of the reduction is made by channels, 0 <= split <= 1 on a logarithmic scale:
            with one half, a quarter of the MACs is a half by channels, and half of that by ranks. Where the budget
            cannot be met so, and with None, one solver shares it out over channels and ranks by the norms that leave.

    Raises:
        ValueError: if `split` is out of range.
    """

    filters: FilterPruning = field(default_factory=FilterPruning)
    low_rank: LowRank = field(default_factory=LowRank)
    split: float | None = 0.5

    def __post_init__(self) -> None:
        number = isinstance(self.split, float | int) and not isinstance(self.split, bool)
        if self.split is not None and not (number and 0.0 <= self.split <= 1.0):
            raise ValueError(f"split must lie in [0, 1], or be None, found {self.split!r}")

    def select(
        self, model: nn.Module, fraction: float | None = None, *, budget: Budget | None = None, example: Example
    ) -> Cut:
        return _PairChooser(self, model, example).cut(fraction, budget=budget)

    def truncate(self, model: nn.Module, cut: Cut) -> nn.Module:
        first, second = self._parts(cut)
        copied = self.filters.truncate(model, first)
        modules, scheme = dict(copied.named_modules()), self.low_rank.scheme
        for name in second.reduced():
            layer, ranks, kept = modules.get(name), second.atoms[name], second.kept[name]
            if layer is None or not is_layer(layer) or rank_of(layer, scheme) < ranks or not isinstance(kept, int):
                raise CutError(
                    f"layer {name!r}: the cut was made for a layer of rank {ranks}, the model has none there"
                )
            truncate_weight(layer, kept, scheme)
        return copied

    def realise(self, model: nn.Module, cut: Cut) -> nn.Module:
        first, second = self._parts(cut)
        return self.low_rank.realise(self.filters.realise(model, first), second)

    def _parts(self, cut: Cut) -> tuple[Cut, Cut]:
        if cut.compressor != type(self).__name__:
            raise CutError(f"the cut was made by {cut.compressor}, it cannot be applied by {type(self).__name__}")
        if len(cut.parts) != 2:
            raise CutError(f"a cut of channels and ranks must have two parts, found {len(cut.parts)}")
        first, second = cut.parts
        if replace(joined(self, first, second, cut.fraction), options=cut.options, budget=cut.budget) != cut:
            raise CutError("the cut of channels and ranks contradicts its two parts")
        return first, second


@dataclass(frozen=True, eq=False)
class _PairChooser(Chooser):
    """A model whose channels are found and scored once; its ranks depend on which of them go."""

    both: Both
    model: nn.Module
    example: Example

    @cached_property
    def _channels(self) -> ChannelChooser:
        return ChannelChooser(self.both.filters, self.model, self.example)

    def cut(self, fraction: float | None = None, *, budget: Budget | None = None) -> Cut:
        fraction = check_request(fraction, budget)
        if budget is None:
            first = self._channels.cut(fraction)
            second = self.both.low_rank.select(self._without(first), fraction, example=self.example)
            return joined(self.both, first, second, fraction)
        dense = budget.measure(self.model, self.example)
        if self.both.split is not None and dense > 0.0:
            aim = dense * (budget.limit(dense) / dense) ** self.both.split
            try:
                return self._within(budget, dense, self._channels.cut(budget=budget.at_most(aim)))
            except BudgetError:
                _LOG.info("%s cannot be met with a split of %s: one solver shares it out", budget, self.both.split)
        return self._within(budget, dense, self._channels_by_solver(budget))

    def _within(self, budget: Budget, dense: float, first: Cut) -> Cut:
        """Cut ranks, after channels, so that a budget is met."""
        left = budget.at_most(budget.limit(dense))
        second = self.both.low_rank.select(self._without(first), budget=left, example=self.example)
        record = BudgetRecord.of(budget, dense, dense if second.budget is None else second.budget.reached)
        return replace(joined(self.both, first, second, None), budget=record)

    def _without(self, first: Cut) -> nn.Module:
        return self.both.filters.realise(self.model, first)

    def _channels_by_solver(self, budget: Budget) -> Cut:
        """Choose the channels that go when channels and ranks together meet a budget."""
        seen, survey, low_rank = probe(self.model, self.example), self._channels.survey, self.both.low_rank
        ranked = low_rank.candidates(self.model, seen)
        spectra = {name: spectrum(layer, low_rank.scheme) for name, layer in ranked.layers.items()}
        knobs = [*survey.knobs, *low_rank.knobs(spectra)]
        groups = len(survey.groups)
        ranks = Ranks({name: groups + index for index, name in enumerate(ranked.layers)}, low_rank.scheme)
        plain = Scene(self.model, self.example, seen, knobs, dict(enumerate(survey.orders)), ranks)

        def shares(fraction: float) -> list[int]:
            channels = survey.shares(fraction)
            limits = _rank_limits(plain, [*channels, *(0 for _ in ranks.knobs)])
            left = {name: values[:, : limits[name]] for name, values in spectra.items()}
            return [*channels, *low_rank.shares(left, fraction)]

        skipped = {**survey.skipped, **_ranks(ranked.skipped)}
        found = solve(replace(plain, shares=shares, skipped=skipped), budget)
        return self._channels.cut_to(found.counts[:groups], None)


@chooser.register
def _(compressor: Both, model: nn.Module, example: Example) -> Chooser:
    return _PairChooser(compressor, model, example)


def _rank_limits(scene: Scene, counts: Sequence[int]) -> dict[str, int]:
    """Return how large the rank of each layer can be with such counts of channels."""
    limits = {}
    names = {knob: name for name, knob in scene.ranks.knobs.items()}
    for weight in scene.weights:
        if weight.split is not None:
            _, rows, columns = matrices(weight, weight.split.axes, counts)
            limits[names[weight.split.knob]] = int(min(rows, columns))
    return limits


def joined(compressor: Both, first: Cut, second: Cut, fraction: float | None) -> Cut:
    """Return the cut that two cuts make, the second of the model that the first one realises."""
    counts = [{name: part.count(name) for name in part.atoms} for part in (first, second)]
    return Cut(
        compressor=type(compressor).__name__,
        options=options_of(compressor),
        fraction=fraction,
        atoms={**first.atoms, **_ranks(second.atoms)},
        kept={**counts[0], **_ranks(counts[1])},
        skipped={**first.skipped, **_ranks(second.skipped)},
        left_dense={**first.left_dense, **_ranks(second.left_dense)},
        parameters=second.parameters,
        macs=second.macs,
        dense_parameters=first.dense_parameters,
        dense_macs=first.dense_macs,
        parts=(first, second),
    )


def _ranks(named: Mapping[str, T]) -> dict[str, T]:
    return {name + _RANK: value for name, value in named.items()}
