"""FilterPruning: whole channels go, with everything that makes and reads them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from torch import nn

from pliant.compress.atom_scores import scores_of
from pliant.compress.atoms import PerLayer, Scope
from pliant.compress.budgets import Budget
from pliant.compress.budgets.scene import Scene
from pliant.compress.budgets.solve import solve
from pliant.compress.channel_choice import choose
from pliant.compress.channel_survey import ChannelSurvey
from pliant.compress.chooser import Chooser, chooser
from pliant.compress.compressor import Compressor, check_request, options_of
from pliant.compress.cut import Cut, CutError
from pliant.compress.predict import predicted_macs
from pliant.compress.probe import probe
from pliant.compress.scores import Given, GroupNorm, Score
from pliant.compress.slices import check_groups, remove_slices, zero_slices
from pliant.spec import register
from pliant.structure.channels import ChannelGroup
from pliant.structure.channels.kinds import Layers
from pliant.structure.copies import fresh_copy
from pliant.structure.example import Example
from pliant.structure.norms import norm_after
from pliant.structure.patterns import check_ignore


@register
@dataclass(frozen=True)
class FilterPruning(Compressor):
    """Remove channels: filters of convolutions, rows of linear layers, heads of attention.

    An atom is a channel in every layer that must lose it together: the filters that make it (several where residual
    sums tie layers), their biases, scales, shifts and statistics in norm layers, and the columns of the layers that
    read it. `truncate` zeroes all of these, so that a removed channel influences nothing; `realise` takes them out.
    A channel that cannot be taken out exactly is never removed: the cut's `skipped` says why.

    Args:
        score: what makes an atom worth keeping. The default weighs the whole atom, which survived most cuts best in
            `results/fashion-mnist/scores.md`; the published code takes `L1()`. `backward_elimination` measures it.
        scope: over what the atoms compete. Under `Global` each group's scores count in units of their root mean
            square, unless they are `Given`.
        layers: which kinds of layers are cut; by default convolutions (shortcuts and first layer included), or linear
            layers and attention heads where no convolution can be cut. Output layers never are.
        ignore: patterns of layer names to leave whole, such as ("stages.0.*",). What loses channels together with such
            a layer stays whole too.
        round_to: keep a multiple of so many channels in each group, rounded up, where its atoms allow.
        strict: refuse a model in which a layer of the kinds asked for, output layers apart, cannot be cut.

    Raises:
        ValueError: if `ignore` is not a tuple of patterns, or `round_to` not a count of at least 1.
    """

    score: Score | Given = field(default_factory=GroupNorm)
    scope: Scope = field(default_factory=PerLayer)
    layers: Layers = Layers.AUTO
    ignore: tuple[str, ...] = ()
    round_to: int = 1
    strict: bool = False

    def __post_init__(self) -> None:
        check_ignore(self.ignore)
        if isinstance(self.round_to, bool) or not isinstance(self.round_to, int) or self.round_to < 1:
            raise ValueError(f"round_to must be a count of at least 1, found {self.round_to!r}")

    def select(
        self, model: nn.Module, fraction: float | None = None, *, budget: Budget | None = None, example: Example
    ) -> Cut:
        """Choose the channels that stay; see `Compressor.select`.

        Raises:
            CutError: under `strict`, naming every layer that cannot be cut.
            BudgetError: if the budget cannot be met.
            ValueError: if the fraction is out of range, or not exactly one of fraction and budget is given, or weights
                are not finite.
        """
        return ChannelChooser(self, model, example).cut(fraction, budget=budget)

    def survey(self, model: nn.Module, example: Example) -> ChannelSurvey:
        """Find and score the channels that can be cut."""
        groups, skipped = choose(model, example, kind=self.layers, ignore=self.ignore, strict=self.strict)
        norms = norm_after(model, example)
        scores = [scores_of(model, group, norms, self.score) for group in groups]
        return ChannelSurvey(groups, skipped, scores, self.scope, self.round_to, isinstance(self.score, Given))

    def truncate(self, model: nn.Module, cut: Cut) -> nn.Module:
        groups, kept = self._check(model, cut)
        copied = fresh_copy(model)
        zero_slices(copied, groups, kept)
        return copied

    def realise(self, model: nn.Module, cut: Cut) -> nn.Module:
        groups, kept = self._check(model, cut)
        return _without(model, groups, kept)

    def _check(self, model: nn.Module, cut: Cut) -> tuple[list[ChannelGroup], Mapping[str, Sequence[int]]]:
        if cut.compressor != type(self).__name__:
            raise CutError(f"the cut was made by {cut.compressor}, it cannot be applied by {type(self).__name__}")
        for name, atoms in cut.atoms.items():
            if name not in cut.groups or cut.groups[name].atoms != atoms:
                raise CutError(f"layer {name!r}: the cut does not say which slices make its {atoms} atoms")
        kept = {name: cut.listed(name) for name in cut.atoms}
        groups = list(cut.groups.values())
        check_groups(model, groups, kept)
        return groups, kept


@dataclass(frozen=True, eq=False)
class ChannelChooser(Chooser):
    """A model whose channels are found and scored once.

    Args:
        pruning: how they are cut.
        model: the model.
        example: what it can be called with.
    """

    pruning: FilterPruning
    model: nn.Module
    example: Example

    @cached_property
    def survey(self) -> ChannelSurvey:
        """Return its channels."""
        return self.pruning.survey(self.model, self.example)

    def cut(self, fraction: float | None = None, *, budget: Budget | None = None) -> Cut:
        fraction = check_request(fraction, budget)
        if fraction is None and budget is None:
            raise ValueError("fraction must be given, 0 <= fraction < 1: the share of channels to remove; or a budget")
        survey = self.survey
        if budget is None:
            return self.cut_to(survey.shares(fraction or 0.0), fraction)
        orders, seen = dict(enumerate(survey.orders)), probe(self.model, self.example)
        scene = Scene(
            self.model, self.example, seen, survey.knobs, orders, shares=survey.shares, skipped=survey.skipped
        )
        found = solve(scene, budget, lambda counts: _without(self.model, survey.groups, survey.kept(counts)))
        return replace(self.cut_to(found.counts, None), budget=found.record)

    def cut_to(self, counts: Sequence[int], fraction: float | None) -> Cut:
        """Return the cut that leaves so many atoms of each group.

        Args:
            counts: how many atoms stay, per group.
            fraction: to be noted in the cut.
        """
        cut = Cut(
            compressor=type(self.pruning).__name__,
            options=options_of(self.pruning),
            fraction=fraction,
            atoms={group.name: group.atoms for group in self.survey.groups},
            kept=self.survey.kept(counts),
            groups={group.name: group for group in self.survey.groups},
            skipped=self.survey.skipped,
            dense_parameters=sum(p.numel() for p in self.model.parameters()),
            dense_macs=self._macs,
        )
        if not cut.reduced():
            return replace(cut, parameters=cut.dense_parameters, macs=cut.dense_macs)
        macs = predicted_macs(self.pruning.realise(self.model, cut), self.example)
        return replace(cut, parameters=_parameters_left(self.model, cut), macs=macs)

    @cached_property
    def _macs(self) -> int:
        return predicted_macs(self.model, self.example)


@chooser.register
def _(compressor: FilterPruning, model: nn.Module, example: Example) -> Chooser:
    return ChannelChooser(compressor, model, example)


def _parameters_left(model: nn.Module, cut: Cut) -> int:
    slices = cut.removed_slices()
    left = 0
    for name, parameter in model.named_parameters():
        shape = list(parameter.shape)
        for dim, removed in slices.get(name, ()):
            shape[dim] -= len(removed)
        left += math.prod(shape)
    return left


def _without(model: nn.Module, groups: Sequence[ChannelGroup], kept: Mapping[str, Sequence[int]]) -> nn.Module:
    copied = fresh_copy(model)
    remove_slices(copied, groups, kept)
    return copied
