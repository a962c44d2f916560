"""LowRank: rank-one terms go; a layer becomes two thinner ones."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial

from torch import Tensor, nn

from pliant.compress import surgery
from pliant.compress.atoms import PerLayer
from pliant.compress.budgets import Budget
from pliant.compress.budgets.knobs import rank_knob
from pliant.compress.budgets.problem import Knob
from pliant.compress.budgets.scene import Scene
from pliant.compress.budgets.solve import solve
from pliant.compress.budgets.weights import Ranks
from pliant.compress.candidates import Candidates, find_candidates
from pliant.compress.chooser import Chooser, chooser
from pliant.compress.compressor import Compressor, check_fits, check_request, options_of
from pliant.compress.cut import Cut, CutError
from pliant.compress.factor import Factors, rank_of, spectrum, split, split_cost, truncate_weight
from pliant.compress.predict import Work, work_of
from pliant.compress.probe import Probe, probe
from pliant.compress.ranks import EqualFraction, RankRule
from pliant.spec import register
from pliant.structure.channels.kinds import Layers
from pliant.structure.example import Example
from pliant.structure.matricise import Scheme, check_scheme, is_plain_layer
from pliant.structure.patched import is_patched
from pliant.structure.patterns import check_ignore
from pliant.structure.unfit import has_hooks


@register
@dataclass(frozen=True)
class LowRank(Compressor):
    """Keep the largest singular values of each weight, read as a matrix.

    By `Scheme.CHANNEL` the matrix has one row per output channel, and a k x k convolution becomes one to fewer channels
    and a 1 x 1 convolution. By `Scheme.SPATIAL` it has one row per output channel and place along the last axis of the
    kernel, and the convolution becomes a k x 1 and a 1 x k one; linear layers, transposed convolutions and those of one
    axis are read by channel. At equal cost spatial ranks lose less on convolutions that were not trained for either.

    The weight of a grouped convolution is one matrix per group; all get the same rank. `truncate` writes the best
    approximation of that rank (Eckart & Young) into the dense weight. `realise` replaces the layer by two plain layers
    where that lowers both parameters and MACs; elsewhere the truncated dense weight stays, and the cut's `left_dense`
    says so.

    Args:
        rule: how the ranks of the layers are chosen.
        layers: which kinds of layers are cut; by default all. Output layers never are.
        minimum: smallest rank of a layer, at least 1.
        ignore: patterns of layer names to leave whole, such as ("stages.0.*",).
        scheme: which matrix of a convolution is cut.

    Raises:
        ValueError: if `minimum` is not a positive count, `ignore` is not a tuple of patterns, or `scheme` is no scheme.

    Reference: Jaderberg, Vedaldi, Zisserman (2014), arXiv 1405.3866, for two convolutions along one axis each.
    """

    rule: RankRule = field(default_factory=EqualFraction)
    layers: Layers = Layers.ALL
    minimum: int = 1
    ignore: tuple[str, ...] = ()
    scheme: Scheme = Scheme.CHANNEL

    def __post_init__(self) -> None:
        PerLayer(self.minimum)
        check_ignore(self.ignore)
        check_scheme(self.scheme)

    def select(
        self, model: nn.Module, fraction: float | None = None, *, budget: Budget | None = None, example: Example
    ) -> Cut:
        return RankChooser(self, model, example).cut(fraction, budget=budget)

    def candidates(self, model: nn.Module, seen: Probe) -> Candidates:
        """Return the layers that can be decomposed, and the others with the reason."""
        found = find_candidates(model, seen, self.layers, self.ignore)
        refused = {name: self._refusal(model, name, layer, seen) for name, layer in found.layers.items()}
        return Candidates(
            layers={name: layer for name, layer in found.layers.items() if refused[name] is None},
            skipped=dict(found.skipped) | {name: reason for name, reason in refused.items() if reason is not None},
        )

    def knobs(self, spectra: Mapping[str, Tensor]) -> list[Knob]:
        """Return the layers as knobs of a budget.

        Args:
            spectra: layer name -> singular values, descending, shape (groups, n).

        Raises:
            ValueError: if the rule has a level of its own.
        """
        self.shares(spectra, 0.0)
        return [rank_knob(name, values, self.minimum) for name, values in spectra.items()]

    def shares(self, spectra: Mapping[str, Tensor], fraction: float) -> list[int]:
        """Return the rank of each layer at a fraction."""
        return self.rule.ranks(list(spectra.values()), fraction, self.minimum)

    def truncate(self, model: nn.Module, cut: Cut) -> nn.Module:
        self._check(model, cut)
        copied = copy.deepcopy(model)
        for name in cut.reduced():
            truncate_weight(copied.get_submodule(name), cut.count(name), self.scheme)
        return copied

    def realise(self, model: nn.Module, cut: Cut) -> nn.Module:
        self._check(model, cut)
        copied = copy.deepcopy(model)
        for name in cut.reduced():
            layer = copied.get_submodule(name)
            if name in cut.left_dense:
                truncate_weight(layer, cut.count(name), self.scheme)
            else:
                surgery.replace(copied, [name], [split(layer, cut.count(name), self.scheme)])
        return copied

    def _check(self, model: nn.Module, cut: Cut) -> None:
        modules = dict(model.named_modules())
        check_fits(self, cut, {name: self._atoms(modules.get(name)) for name in cut.atoms})
        for name, kept in cut.kept.items():
            if not isinstance(kept, int):
                raise CutError(f"layer {name!r}: the cut must give a rank, found a list of atoms")

    def _atoms(self, layer: nn.Module | None) -> int | None:
        if layer is None or not is_plain_layer(layer) or "weight" not in dict(layer.named_parameters(recurse=False)):
            return None
        return rank_of(layer, self.scheme)

    def _refusal(self, model: nn.Module, name: str, layer: nn.Module, seen: Probe) -> str | None:
        parent = model.get_submodule(name.rpartition(".")[0])
        checks = (
            (isinstance(parent, Factors), "it is a factor of a layer that was decomposed"),
            (rank_of(layer, self.scheme) == 1, "its matrices have rank 1 already"),
            (not seen.uses[name].plain, f"it is called with more than one argument, {_TWO} could not take"),
            (name in seen.read, f"its weight or bias is read by another module, {_TWO} do not have"),
            (has_hooks(layer), "it has hooks, which a replacement would lose"),
            (is_patched(layer), "its forward was set on the layer itself, which a replacement would lose"),
        )
        return next((reason for holds, reason in checks if holds), None)


_TWO = "which two layers in its place"


@dataclass(frozen=True, eq=False)
class RankChooser(Chooser):
    """A model whose layers are found and decomposed once.

    Args:
        low_rank: how ranks are cut.
        model: the model.
        example: what it can be called with.
    """

    low_rank: LowRank
    model: nn.Module
    example: Example

    def cut(self, fraction: float | None = None, *, budget: Budget | None = None) -> Cut:
        fraction = check_request(fraction, budget)
        if budget is None:
            return self._cut(self.low_rank.rule.ranks(list(self._spectra.values()), fraction, self.low_rank.minimum),
                             fraction)  # fmt: skip
        knobs, numbers = self.low_rank.knobs(self._spectra), {name: i for i, name in enumerate(self._spectra)}
        shares = partial(self.low_rank.shares, self._spectra)
        ranks = Ranks(numbers, self.low_rank.scheme)
        skipped = self._found.skipped
        scene = Scene(self.model, self.example, self._seen, knobs, ranks=ranks, shares=shares, skipped=skipped)
        found = solve(scene, budget, None if self._work.fixed else lambda ranks: self._realised(self._planned(ranks)))
        return replace(self._cut(found.counts, None), budget=found.record)

    def _cut(self, ranks: Sequence[int], fraction: float | None) -> Cut:
        cut = self._planned(ranks)
        macs = self._work.after(cut.dense_macs - cut.macs, lambda: self._realised(cut), self.example)
        return replace(cut, fraction=fraction, macs=macs)

    def _realised(self, cut: Cut) -> nn.Module:
        return self.low_rank.realise(self.model, cut)

    def _planned(self, ranks: Sequence[int]) -> Cut:
        """Return the cut to such ranks, its MACs as if every layer were called as often as before."""
        kept = dict(zip(self._spectra, ranks, strict=True))
        left_dense, fewer, cheaper = _outcome(self._found.layers, kept, self._seen, self.low_rank.scheme)
        parameters = sum(p.numel() for p in self.model.parameters())
        return Cut(
            compressor=type(self.low_rank).__name__,
            options=options_of(self.low_rank),
            fraction=None,
            atoms={name: rank_of(layer, self.low_rank.scheme) for name, layer in self._found.layers.items()},
            kept=kept,
            skipped=self._found.skipped,
            left_dense=left_dense,
            parameters=parameters - fewer,
            macs=self._work.macs - cheaper,
            dense_parameters=parameters,
            dense_macs=self._work.macs,
        )

    @cached_property
    def _seen(self) -> Probe:
        return probe(self.model, self.example)

    @cached_property
    def _found(self) -> Candidates:
        return self.low_rank.candidates(self.model, self._seen)

    @cached_property
    def _spectra(self) -> Mapping[str, Tensor]:
        return {name: spectrum(layer, self.low_rank.scheme) for name, layer in self._found.layers.items()}

    @cached_property
    def _work(self) -> Work:
        return work_of(self.model, self.example)


@chooser.register
def _(compressor: LowRank, model: nn.Module, example: Example) -> Chooser:
    return RankChooser(compressor, model, example)


def _outcome(
    layers: Mapping[str, nn.Module], kept: Mapping[str, int], seen: Probe, scheme: Scheme
) -> tuple[dict[str, str], int, int]:
    """Return the layers where a split does not pay, and the parameters and MACs that the others save."""
    left_dense: dict[str, str] = {}
    fewer = cheaper = 0
    for name, layer in layers.items():
        use, entries, atoms = seen.uses[name], layer.get_parameter("weight").numel(), rank_of(layer, scheme)
        macs = entries * use.entry_uses(layer)
        parameters, new_macs = split_cost(layer, kept[name], use, scheme)
        if kept[name] == atoms:
            continue
        if parameters < entries and new_macs < macs:
            fewer, cheaper = fewer + entries - parameters, cheaper + macs - new_macs
        else:
            left_dense[name] = f"rank {kept[name]} of {atoms} in two layers would not cost less"
    return left_dense, fewer, cheaper
