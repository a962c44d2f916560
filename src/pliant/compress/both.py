"""Both: channels go first, then the rank of what is left."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from torch import nn

from pliant.compress.budgets import Budget
from pliant.compress.budgets.scene import Scene
from pliant.compress.budgets.solve import solve
from pliant.compress.budgets.terms import matrices
from pliant.compress.compressor import Compressor, check_request, options_of
from pliant.compress.cut import Cut, CutError
from pliant.compress.factor import rank_of, spectrum, truncate_weight
from pliant.compress.filters import FilterPruning
from pliant.compress.low_rank import LowRank
from pliant.compress.probe import probe
from pliant.spec import register
from pliant.structure.matricise import PRUNABLE
from pliant.structure.norms import Example

_RANK = ".rank"  # after the name of a layer, which has no parts of its own: no other name ends so

T = TypeVar("T")


@register
@dataclass(frozen=True)
class Both(Compressor):
    """Remove channels, then rank-one terms of the layers that are left.

    A fraction applies to both: it removes that share of the channels, and then that share of the ranks. A budget is
    shared out over channels and ranks by one solver; the ranks are chosen once more, from the singular values that the
    removed channels leave, within what the budget then allows.

    The cut holds the two cuts in `parts`, the second of the model that the first one realises. Its `atoms` count the
    channels by the names of their groups, and the ranks by the names of the layers with ".rank" behind.

    Args:
        filters: how channels are cut.
        low_rank: how ranks are cut.
    """

    filters: FilterPruning = field(default_factory=FilterPruning)
    low_rank: LowRank = field(default_factory=LowRank)

    def select(
        self, model: nn.Module, fraction: float | None = None, *, budget: Budget | None = None, example: Example
    ) -> Cut:
        fraction = check_request(fraction, budget)
        if budget is None:
            first = self.filters.select(model, fraction, example=example)
            second = self.low_rank.select(self.filters.realise(model, first), fraction, example=example)
        else:
            first = self._channels(model, budget, example)
            left = budget.at_most(budget.limit(budget.measure(model, example)))
            second = self.low_rank.select(self.filters.realise(model, first), budget=left, example=example)
        return joined(self, first, second, fraction)

    def truncate(self, model: nn.Module, cut: Cut) -> nn.Module:
        first, second = self._parts(cut)
        copied = self.filters.truncate(model, first)
        modules = dict(copied.named_modules())
        for name in second.reduced():
            layer, ranks, kept = modules.get(name), second.atoms[name], second.kept[name]
            if not isinstance(layer, PRUNABLE) or rank_of(layer) < ranks or not isinstance(kept, int):
                raise CutError(
                    f"layer {name!r}: the cut was made for a layer of rank {ranks}, the model has none there"
                )
            truncate_weight(layer, kept)
        return copied

    def realise(self, model: nn.Module, cut: Cut) -> nn.Module:
        first, second = self._parts(cut)
        return self.low_rank.realise(self.filters.realise(model, first), second)

    def _channels(self, model: nn.Module, budget: Budget, example: Example) -> Cut:
        """Choose the channels that go when channels and ranks together meet a budget."""
        seen = probe(model, example)
        survey = self.filters.survey(model, example)
        layers = self.low_rank.candidates(model, seen).layers
        spectra = {name: spectrum(layer) for name, layer in layers.items()}
        knobs = [*survey.knobs, *self.low_rank.knobs(spectra)]
        groups = len(survey.groups)
        ranks = {name: groups + index for index, name in enumerate(layers)}
        plain = Scene(model, example, seen, knobs, dict(enumerate(survey.orders)), ranks)

        def shares(fraction: float) -> list[int]:
            channels = survey.shares(fraction)
            limits = _rank_limits(plain, [*channels, *(0 for _ in ranks)])
            left = {name: values[:, : limits[name]] for name, values in spectra.items()}
            return [*channels, *self.low_rank.shares(left, fraction)]

        counts = solve(replace(plain, shares=shares), budget)
        return self.filters.cut_to(model, survey, counts[:groups], None, example)

    def _parts(self, cut: Cut) -> tuple[Cut, Cut]:
        if cut.compressor != type(self).__name__:
            raise CutError(f"the cut was made by {cut.compressor}, it cannot be applied by {type(self).__name__}")
        if len(cut.parts) != 2:
            raise CutError(f"a cut of channels and ranks must have two parts, found {len(cut.parts)}")
        first, second = cut.parts
        if replace(joined(self, first, second, cut.fraction), options=cut.options) != cut:
            raise CutError("the cut of channels and ranks contradicts its two parts")
        return first, second


def _rank_limits(scene: Scene, counts: Sequence[int]) -> dict[str, int]:
    """Return how large the rank of each layer can be with such counts of channels."""
    limits = {}
    names = {knob: name for name, knob in scene.ranks.items()}
    for weight in scene.weights:
        if weight.split is not None:
            _, rows, columns = matrices(weight, weight.split, counts)
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
