"""FilterPruning: whole output channels go."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from pliant.compress.atoms import PerLayer, Scope
from pliant.compress.candidates import Layers, check_ignore, find_candidates
from pliant.compress.chains import find_chains
from pliant.compress.compressor import Compressor, check_fits, check_request, options_of
from pliant.compress.cut import Cut, CutError, Link, Role
from pliant.compress.probe import Probe, probe
from pliant.compress.scores import GroupNorm, Score, channels_of
from pliant.compress.surgery import keep_inputs, keep_norm, keep_outputs, zero_norm, zero_outputs
from pliant.metrics.size import count_macs
from pliant.spec import register
from pliant.structure.matricise import PRUNABLE, axes_of
from pliant.structure.norms import Example, norm_after


@register
@dataclass(frozen=True)
class FilterPruning(Compressor):
    """Remove output channels: filters of convolutions, rows of linear layers.

    An atom is the filter with its bias and with its scale and shift in the batch or instance norm that directly
    follows, so that a removed channel is exactly zero behind the norm. `realise` takes channels out where they reach
    one next layer through norm, activations that map zero to zero, pools, dropout and flatten; elsewhere (residual
    sums, concatenation, grouped convolutions, ...) the zeros stay, and the cut's `left_dense` says why.

    Args:
        score: what makes a filter worth keeping. The default weighs the whole atom, which survived most cuts best in
            `results/fashion-mnist/scores.md`; the published code takes `L1()`.
        scope: over what the filters compete. Under `Global` each layer's scores count in units of their root mean
            square.
        layers: which kinds of layers are cut; by default the convolutions (shortcuts and first layer included), or the
            linear layers of a model without convolutions. Output layers never are.
        ignore: patterns of layer names to leave whole, such as ("stages.0.*",).

    Raises:
        ValueError: if `ignore` is not a tuple of patterns.
    """

    score: Score = field(default_factory=GroupNorm)
    scope: Scope = field(default_factory=PerLayer)
    layers: Layers = Layers.AUTO
    ignore: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_ignore(self.ignore)

    def select(
        self, model: nn.Module, fraction: float | None = None, *, budget: object = None, example: Example
    ) -> Cut:
        fraction = check_request(fraction, budget)
        if fraction is None:
            raise ValueError("fraction must be given, 0 <= fraction < 1: the share of filters to remove")
        seen = probe(model, example)
        found = find_candidates(model, seen, self.layers, self.ignore)
        norms = _norms(model, found.layers, seen, example)
        scores = [_relative(self._scores(model, name, norms.get(name))) for name in found.layers]
        masks = self.scope.removed(scores, fraction)
        kept = {
            name: tuple((~mask).nonzero().flatten().tolist()) for name, mask in zip(found.layers, masks, strict=True)
        }
        inputs, refused = find_chains(model, list(found.layers), norms, seen, example)
        parameters = sum(p.numel() for p in model.parameters())
        macs = count_macs(model, example)
        cut = Cut(
            compressor=type(self).__name__,
            options=options_of(self),
            fraction=fraction,
            atoms={name: len(s) for name, s in zip(found.layers, scores, strict=True)},
            kept=kept,
            links={name: _links(name, norms, inputs) for name in found.layers if name in norms or name in inputs},
            skipped=found.skipped,
            left_dense=refused,
        )
        fewer, cheaper = _savings(model, cut, seen)
        return _with_size(cut, parameters, macs, fewer, cheaper)

    def truncate(self, model: nn.Module, cut: Cut) -> nn.Module:
        self._check(model, cut)
        copied = copy.deepcopy(model)
        for name in cut.reduced():
            layer = copied.get_submodule(name)
            removed = _removed(cut, name).to(layer.get_parameter("weight").device)
            zero_outputs(layer, removed)
            for link in cut.links.get(name, ()):
                if link.role is Role.NORM:
                    zero_norm(copied.get_submodule(link.module), removed)
        return copied

    def realise(self, model: nn.Module, cut: Cut) -> nn.Module:
        smaller = self.truncate(model, cut)
        for name in cut.reduced():
            if name in cut.left_dense:
                continue
            kept = torch.tensor(_indices(cut, name))
            keep_outputs(smaller.get_submodule(name), kept)
            for link in cut.links[name]:
                module = smaller.get_submodule(link.module)
                if link.role is Role.NORM:
                    keep_norm(module, kept)
                else:
                    keep_inputs(module, _blocks(kept, link.block))
        return smaller

    def _scores(self, model: nn.Module, name: str, norm: str | None) -> Tensor:
        channels = channels_of(model.get_submodule(name), None if norm is None else model.get_submodule(norm))
        scores = self.score.of(channels).cpu()
        if not torch.isfinite(scores).all():
            raise ValueError(f"the scores of {name!r} must be finite, found infinite or NaN: repair the model")
        return scores

    def _check(self, model: nn.Module, cut: Cut) -> None:
        modules = dict(model.named_modules())
        check_fits(self, cut, {name: _channels(modules.get(name)) for name in cut.atoms})
        for name, links in cut.links.items():
            for link in links:
                if _width(modules.get(link.module), link.role) != cut.atoms[name] * link.block:
                    raise CutError(f"layer {name!r}: {link.module!r} does not take its {cut.atoms[name]} channels")


def _norms(model: nn.Module, layers: Mapping[str, nn.Module], seen: Probe, example: Example) -> dict[str, str]:
    pairs = norm_after(model, example)
    # Behind a linear layer on sequences, a norm's channels are not the layer's features.
    flat = {n for n, m in layers.items() if not isinstance(m, nn.Linear) or seen.uses[n].ndim == 2}
    return {name: norm for name, norm in pairs.items() if name in layers and name in flat}


def _links(name: str, norms: Mapping[str, str], inputs: Mapping[str, Link]) -> tuple[Link, ...]:
    norm = (Link(norms[name], Role.NORM),) if name in norms else ()
    return (*norm, inputs[name]) if name in inputs else norm


def _relative(scores: Tensor) -> Tensor:
    mean = scores.square().mean().sqrt()
    return scores / mean if mean > 0 else scores


def _indices(cut: Cut, name: str) -> tuple[int, ...]:
    kept = cut.kept[name]
    if isinstance(kept, int):
        raise CutError(f"layer {name!r}: the cut must list the filters that stay, found their number {kept}")
    return kept


def _removed(cut: Cut, name: str) -> Tensor:
    mask = torch.ones(cut.atoms[name], dtype=torch.bool)
    mask[list(_indices(cut, name))] = False
    return mask.nonzero().flatten()


def _blocks(kept: Tensor, block: int) -> Tensor:
    return (kept[:, None] * block + torch.arange(block)).flatten()


def _channels(layer: nn.Module | None) -> int | None:
    if not isinstance(layer, PRUNABLE) or "weight" not in dict(layer.named_parameters(recurse=False)):
        return None
    return axes_of(layer, "weight").channels(layer.get_parameter("weight").shape)


def _width(module: nn.Module | None, role: Role) -> int | None:
    names = ("num_features",) if role is Role.NORM else ("in_features", "in_channels")
    return next((int(getattr(module, name)) for name in names if hasattr(module, name)), None)


def _savings(model: nn.Module, cut: Cut, seen: Probe) -> tuple[int, int]:
    """Return the parameters and MACs that `realise` saves."""
    outputs: dict[str, int] = {}
    inputs: dict[str, int] = {}
    parameters = macs = 0
    for name in cut.reduced():
        if name in cut.left_dense:
            continue
        gone = cut.atoms[name] - cut.count(name)
        outputs[name] = gone
        vectors = [name, *(link.module for link in cut.links[name] if link.role is Role.NORM)]
        for vector in vectors:
            own = model.get_submodule(vector).named_parameters(recurse=False)
            parameters += sum(gone for _, p in own if p.ndim == 1)
        inputs |= {link.module: gone * link.block for link in cut.links[name] if link.role is Role.INPUT}
    for name in outputs.keys() | inputs.keys():
        layer = model.get_submodule(name)
        wide, high = _inputs(layer), _channels(layer) or 1
        entries = layer.get_parameter("weight").numel()
        left = entries // (wide * high) * (wide - inputs.get(name, 0)) * (high - outputs.get(name, 0))
        parameters += entries - left
        macs += (entries - left) * seen.uses[name].entry_uses(layer)
    return parameters, macs


def _inputs(layer: nn.Module) -> int:
    """Return the inputs of each output channel."""
    width = _width(layer, Role.INPUT) or 1
    return width // int(getattr(layer, "groups", 1))


def _with_size(cut: Cut, parameters: int, macs: int, fewer: int, cheaper: int) -> Cut:
    return replace(
        cut, parameters=parameters - fewer, macs=macs - cheaper, dense_parameters=parameters, dense_macs=macs
    )
