"""TensorTrain: a weight becomes a chain of small cores."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial

from torch import nn

from pliant.compress.atoms import PerLayer
from pliant.compress.bonds import Bonds, Ranks
from pliant.compress.budgets import Budget
from pliant.compress.candidates import Candidates
from pliant.compress.compressor import Compressor, check_fits, check_request, options_of
from pliant.compress.cut import Cut
from pliant.compress.low_rank import LowRank
from pliant.compress.predict import Work, work_of
from pliant.compress.probe import Probe, probe
from pliant.compress.ranks import EqualFraction, RankRule
from pliant.compress.surgery import replace
from pliant.compress.train_budget import Scenery, within
from pliant.spec import register
from pliant.structure.channels.kinds import Layers
from pliant.structure.example import Example
from pliant.structure.patterns import check_ignore
from pliant.tensor_train import Reading, Separate, as_train, spectra


@register
@dataclass(frozen=True)
class TensorTrain(Compressor):
    """Decompose the weights of linear layers and convolutions into tensor trains.

    The atoms of a layer are the singular values of the unfoldings of its tensor, one unfolding for each bond between
    two cores, bond after bond; a fraction of them is removed. Of every bond the largest stay, and a rank that the
    cores beside it could not use is lowered. `truncate` writes the train, found by successive singular value
    decompositions, into the dense weight. `realise` puts a `TTLinear` or `TTConv2d` in the place of the layer where
    that lowers both parameters and MACs; elsewhere the truncated dense weight stays, and the cut's `left_dense` says
    so. A budget is shared out over all bonds of all layers.

    Args:
        rule: how the ranks are chosen; every bond of every layer counts as one spectrum.
        reading: how weights become tensors. With `Separate()` a convolution becomes three, over the window with few
            channels in between; `Paired()` saves parameters rather than MACs.
        layers: which kinds of layers are cut; by default all. Output layers never are.
        minimum: smallest rank of a bond, at least 1.
        ignore: patterns of layer names to leave whole, such as ("stages.0.*",).

    Raises:
        ValueError: if `minimum` is not a positive count, or `ignore` is not a tuple of patterns.

    Reference: Oseledets (2011); Novikov, Podoprikhin, Osokin, Vetrov (2015); Garipov et al. (2016).
    """

    rule: RankRule = field(default_factory=EqualFraction)
    reading: Reading = field(default_factory=Separate)
    layers: Layers = Layers.ALL
    minimum: int = 1
    ignore: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        PerLayer(self.minimum)
        check_ignore(self.ignore)

    def select(
        self, model: nn.Module, fraction: float | None = None, *, budget: Budget | None = None, example: Example
    ) -> Cut:
        fraction = check_request(fraction, budget)
        seen = probe(model, example)
        found = self._candidates(model, seen)
        bonds = {name: Bonds.of(layer, self.reading) for name, layer in found.layers.items()}
        values = [
            spectrum[None].cpu() for name in bonds for spectrum in spectra(bonds[name].tensor(found.layers[name]))
        ]
        scenery = Scenery(model, example, found.layers, seen.uses, bonds, values, found.skipped)
        work = work_of(model, example)
        if budget is None:
            ranks = scenery.ranks(self.rule.ranks(values, fraction, self.minimum))
            return self._cut(scenery, work, ranks, fraction)
        shares = partial(self.rule.ranks, values, minimum=self.minimum)

        def build(ranks: Mapping[str, Ranks]) -> nn.Module:
            return self.realise(model, self._planned(scenery, work, ranks))

        ranks, record = within(budget, scenery, shares, self.minimum, None if work.fixed else build)
        return dataclasses.replace(self._cut(scenery, work, ranks, None), budget=record)

    def truncate(self, model: nn.Module, cut: Cut) -> nn.Module:
        copied, trains = copy.deepcopy(model), self._trains(model, cut)
        for name in cut.reduced():
            bonds, ranks = trains[name]
            bonds.truncate(copied.get_submodule(name), ranks)
        return copied

    def realise(self, model: nn.Module, cut: Cut) -> nn.Module:
        copied, trains = copy.deepcopy(model), self._trains(model, cut)
        for name in cut.reduced():
            layer, (bonds, ranks) = copied.get_submodule(name), trains[name]
            if name in cut.left_dense:
                bonds.truncate(layer, ranks)
            else:
                replace(copied, [name], [as_train(layer, bonds.modes, bonds.cores(layer, ranks))])
        return copied

    def _candidates(self, model: nn.Module, seen: Probe) -> Candidates:
        found = LowRank(layers=self.layers, ignore=self.ignore).candidates(model, seen)
        refused = {name: self._refusal(layer) for name, layer in found.layers.items()}
        return Candidates(
            layers={name: layer for name, layer in found.layers.items() if refused[name] is None},
            skipped=dict(found.skipped) | {name: reason for name, reason in refused.items() if reason is not None},
        )

    def _refusal(self, layer: nn.Module) -> str | None:
        if not _is_possible(layer):
            return "tensor trains stand for linear layers, and for convolutions in two dimensions of one group"
        if not Bonds.of(layer, self.reading).atoms:
            return "it has too few channels for a train of two cores"
        return None

    def _cut(self, scenery: Scenery, work: Work, ranks: Mapping[str, Ranks], fraction: float | None) -> Cut:
        cut = self._planned(scenery, work, ranks)
        saved = cut.dense_macs - cut.macs
        macs = work.after(saved, lambda: self.realise(scenery.model, cut), scenery.example)
        return dataclasses.replace(cut, fraction=fraction, macs=macs)

    def _planned(self, scenery: Scenery, work: Work, ranks: Mapping[str, Ranks]) -> Cut:
        """Return the cut to such ranks, its MACs as if every layer were called as often as before."""
        bonds = scenery.bonds
        reduced = [name for name, of in bonds.items() if ranks[name] != of.full]
        saved = {name: bonds[name].saved(scenery.layers[name], ranks[name], scenery.uses[name]) for name in reduced}
        parameters = sum(p.numel() for p in scenery.model.parameters())
        return Cut(
            compressor=type(self).__name__,
            options=options_of(self),
            fraction=None,
            atoms={name: of.atoms for name, of in bonds.items()},
            kept={name: of.kept(ranks[name]) for name, of in bonds.items()},
            skipped=scenery.skipped,
            left_dense={
                name: f"a tensor train of ranks {ranks[name]} of {bonds[name].full} would not cost less"
                for name in reduced
                if not saved[name].parameters
            },
            parameters=parameters - sum(gain.parameters for gain in saved.values()),
            macs=work.macs - sum(gain.macs for gain in saved.values()),
            dense_parameters=parameters,
            dense_macs=work.macs,
        )

    def _trains(self, model: nn.Module, cut: Cut) -> dict[str, tuple[Bonds, Ranks]]:
        """Check a cut, and return how each of its layers is decomposed."""
        modules = dict(model.named_modules())
        bonds = {name: Bonds.of(modules[name], self.reading) for name in cut.atoms if _is_possible(modules.get(name))}
        check_fits(self, cut, {name: bonds[name].atoms if name in bonds else None for name in cut.atoms})
        return {name: (of, of.ranks(cut.kept[name], name)) for name, of in bonds.items()}


def _is_possible(layer: nn.Module | None) -> bool:
    """Tell whether a layer is one that a train can stand for."""
    if type(layer) is nn.Linear or (type(layer) is nn.Conv2d and layer.groups == 1):
        return "weight" in dict(layer.named_parameters(recurse=False))
    return False
