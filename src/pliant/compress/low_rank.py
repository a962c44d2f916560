"""LowRank: rank-one terms go; a layer becomes two thinner ones."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import nn

from pliant.compress.atoms import PerLayer
from pliant.compress.candidates import Layers, check_ignore, find_candidates
from pliant.compress.compressor import Compressor, check_fits, check_request, options_of
from pliant.compress.cut import Cut, CutError
from pliant.compress.factor import rank_of, spectrum, split, split_cost, truncate_weight
from pliant.compress.probe import Probe, Use, probe
from pliant.compress.ranks import EqualFraction, RankRule
from pliant.compress.surgery import replace
from pliant.metrics.size import count_macs
from pliant.spec import register
from pliant.structure.matricise import PRUNABLE
from pliant.structure.norms import Example


@register
@dataclass(frozen=True)
class LowRank(Compressor):
    """Keep the largest singular values of each weight, read as a matrix with one row per output channel.

    The weight of a grouped convolution is one matrix per group; all get the same rank. `truncate` writes the best
    approximation of that rank (Eckart & Young) into the dense weight. `realise` replaces the layer by two plain layers
    where that lowers both parameters and MACs; elsewhere the truncated dense weight stays, and the cut's `left_dense`
    says so.

    Args:
        rule: how the ranks of the layers are chosen.
        layers: which kinds of layers are cut; by default all. Output layers never are.
        minimum: smallest rank of a layer, at least 1.
        ignore: patterns of layer names to leave whole, such as ("stages.0.*",).

    Raises:
        ValueError: if `minimum` is not a positive count, or `ignore` is not a tuple of patterns.
    """

    rule: RankRule = field(default_factory=EqualFraction)
    layers: Layers = Layers.ALL
    minimum: int = 1
    ignore: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        PerLayer(self.minimum)
        check_ignore(self.ignore)

    def select(
        self, model: nn.Module, fraction: float | None = None, *, budget: object = None, example: Example
    ) -> Cut:
        fraction = check_request(fraction, budget)
        seen = probe(model, example)
        found = find_candidates(model, seen, self.layers, self.ignore)
        layers, skipped = dict(found.layers), dict(found.skipped)
        for name, layer in found.layers.items():
            reason = _refusal(model, name, layer, seen.uses[name])
            if reason is not None:
                skipped[name] = reason
                del layers[name]
        ranks = self.rule.ranks([spectrum(layer) for layer in layers.values()], fraction, self.minimum)
        kept = dict(zip(layers, ranks, strict=True))
        atoms = {name: rank_of(layer) for name, layer in layers.items()}
        left_dense, fewer, cheaper = _outcome(layers, kept, atoms, seen)
        parameters = sum(p.numel() for p in model.parameters())
        macs = count_macs(model, example)
        return Cut(
            compressor=type(self).__name__,
            options=options_of(self),
            fraction=fraction,
            atoms=atoms,
            kept=kept,
            skipped=skipped,
            left_dense=left_dense,
            parameters=parameters - fewer,
            macs=macs - cheaper,
            dense_parameters=parameters,
            dense_macs=macs,
        )

    def truncate(self, model: nn.Module, cut: Cut) -> nn.Module:
        self._check(model, cut)
        copied = copy.deepcopy(model)
        for name in cut.reduced():
            truncate_weight(copied.get_submodule(name), cut.count(name))
        return copied

    def realise(self, model: nn.Module, cut: Cut) -> nn.Module:
        self._check(model, cut)
        copied = copy.deepcopy(model)
        for name in cut.reduced():
            layer = copied.get_submodule(name)
            if name in cut.left_dense:
                truncate_weight(layer, cut.count(name))
            else:
                replace(copied, [name], [split(layer, cut.count(name))])
        return copied

    def _check(self, model: nn.Module, cut: Cut) -> None:
        modules = dict(model.named_modules())
        check_fits(self, cut, {name: _atoms(modules.get(name)) for name in cut.atoms})
        for name, kept in cut.kept.items():
            if not isinstance(kept, int):
                raise CutError(f"layer {name!r}: the cut must give a rank, found a list of atoms")


def _atoms(layer: nn.Module | None) -> int | None:
    if layer is None or type(layer) not in PRUNABLE or "weight" not in dict(layer.named_parameters(recurse=False)):
        return None
    return rank_of(layer)


def _refusal(model: nn.Module, name: str, layer: nn.Module, use: Use) -> str | None:
    parent = model.get_submodule(name.rpartition(".")[0])
    if rank_of(layer) == 1:
        return "its matrices have rank 1 already"
    if not use.plain:
        return "it is called with more than one argument, which two layers in its place could not take"
    if layer._forward_hooks or layer._forward_pre_hooks or layer._backward_hooks:  # noqa: SLF001  (no public way to ask)
        return "it has hooks, which a replacement would lose"
    if isinstance(parent, nn.TransformerEncoderLayer):
        return "nn.TransformerEncoderLayer reads its weight directly"
    return None


def _outcome(
    layers: Mapping[str, nn.Module], kept: Mapping[str, int], atoms: Mapping[str, int], seen: Probe
) -> tuple[dict[str, str], int, int]:
    """Return the layers where a split does not pay, and the parameters and MACs that the others save."""
    left_dense: dict[str, str] = {}
    fewer = cheaper = 0
    for name, layer in layers.items():
        use, entries = seen.uses[name], layer.get_parameter("weight").numel()
        macs = entries * use.entry_uses(layer)
        parameters, new_macs = split_cost(layer, kept[name], use.inputs, use.outputs)
        if kept[name] == atoms[name]:
            continue
        if parameters < entries and new_macs < macs:
            fewer, cheaper = fewer + entries - parameters, cheaper + macs - new_macs
        else:
            left_dense[name] = f"rank {kept[name]} of {atoms[name]} in two layers would not cost less"
    return left_dense, fewer, cheaper
