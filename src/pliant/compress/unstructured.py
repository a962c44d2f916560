"""UnstructuredPruning: single weights go, the tensors stay dense."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from pliant.compress.atoms import Global, Scope, lowest
from pliant.compress.budgets import Budget
from pliant.compress.compressor import Compressor, check_fits, check_request, options_of
from pliant.compress.cut import Cut, CutError
from pliant.compress.predict import work_of
from pliant.spec import register
from pliant.structure.example import Example
from pliant.structure.norms import NORM_LAYERS
from pliant.structure.patterns import check_ignore, ignored_by, warn_of_unmatched
from pliant.structure.unfit import refuse_unfit

_TABLES = (nn.Embedding, nn.EmbeddingBag)


@register
@dataclass(frozen=True)
class UnstructuredPruning(Compressor):
    """Set the weights of smallest magnitude to zero, exactly as many as the fraction says.

    The weights are the matrices and kernels of all layers, output layers and attention projections included; norm
    layers, biases, embeddings and free tokens never take part, nor do weights that are one of these under another name.
    `realise` returns what `truncate` returns, dense tensors that hold zeros: zeros in between save nothing, and the cut
    says so. The layers of a cut are named by parameter ("conv.weight").

    Args:
        scope: over what the magnitudes compete.
        ignore: patterns of names of layers or parameters to leave whole.

    Raises:
        ValueError: if `ignore` is not a tuple of patterns.
    """

    scope: Scope = field(default_factory=Global)
    ignore: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_ignore(self.ignore)

    def select(
        self, model: nn.Module, fraction: float | None = None, *, budget: Budget | None = None, example: Example
    ) -> Cut:
        fraction = _check_asked(fraction, budget)
        refuse_unfit(model)
        weights, skipped = _weights(model, self.ignore)
        masks = self.scope.removed([_magnitudes(name, weight) for name, weight in weights.items()], fraction)
        kept = {name: len(mask) - int(mask.sum()) for name, mask in zip(weights, masks, strict=True)}
        reduced = [name for name, weight in weights.items() if kept[name] < weight.numel()]
        parameters, work = sum(p.numel() for p in model.parameters()), work_of(model, example)
        cut = Cut(
            compressor=type(self).__name__,
            options=options_of(self),
            fraction=fraction,
            atoms={name: weight.numel() for name, weight in weights.items()},
            kept=kept,
            skipped=skipped,
            left_dense=dict.fromkeys(reduced, "single zeros stay in a dense tensor"),
            parameters=parameters,
            macs=work.macs,
            dense_parameters=parameters,
            dense_macs=work.macs,
        )
        return replace(cut, macs=work.after(0, lambda: self.realise(model, cut), example))

    def truncate(self, model: nn.Module, cut: Cut) -> nn.Module:
        found = dict(model.named_parameters())
        check_fits(self, cut, {name: found[name].numel() if name in found else None for name in cut.atoms})
        copied = copy.deepcopy(model)
        parameters = dict(copied.named_parameters())
        for name in cut.reduced():
            kept = cut.kept[name]
            if not isinstance(kept, int):
                raise CutError(f"layer {name!r}: the cut must give a number of weights, found a list")
            removed = lowest(_magnitudes(name, parameters[name]), cut.atoms[name] - kept)
            with torch.no_grad():
                parameters[name].masked_fill_(removed.view(parameters[name].shape), 0.0)
        return copied

    def realise(self, model: nn.Module, cut: Cut) -> nn.Module:
        return self.truncate(model, cut)


def _check_asked(fraction: float | None, budget: Budget | None) -> float:
    fraction = check_request(fraction, budget)
    if budget is not None:
        raise ValueError(f"single weights must be cut by a fraction: zeros in dense tensors save nothing of {budget}")
    if fraction is None:
        raise ValueError("fraction must be given, 0 <= fraction < 1: the share of weights to remove")
    return fraction


def _weights(model: nn.Module, ignore: Sequence[str]) -> tuple[dict[str, nn.Parameter], dict[str, str]]:
    """Return the weights that take part, and why others do not: a tensor of several names does if all of them may."""
    warn_of_unmatched(model, ignore)
    weights: dict[str, nn.Parameter] = {}
    skipped: dict[str, str] = {}
    owners = dict(model.named_modules(remove_duplicate=False))
    known: dict[nn.Parameter, dict[str, str | None]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if parameter.ndim >= 2:
            known.setdefault(parameter, {})[name] = _refusal(owners, name, ignore)
    for parameter, reasons in known.items():
        refused = next((name for name, reason in reasons.items() if reason is not None), None)
        speaker = refused or next(iter(reasons))
        if refused is None:
            weights[speaker] = parameter
        same = {name: reason or f"the same tensor as {speaker}" for name, reason in reasons.items()}
        skipped |= {name: reason for name, reason in same.items() if name not in weights}
    return weights, skipped


def _refusal(owners: Mapping[str, nn.Module], name: str, ignore: Sequence[str]) -> str | None:
    owner, _, local = name.rpartition(".")
    pattern = ignored_by(ignore, owner, name)
    if pattern is not None:
        return f"matches the ignore pattern {pattern!r}"
    if isinstance(owners[owner], (*NORM_LAYERS, *_TABLES)):
        return f"a parameter of {type(owners[owner]).__name__}"
    return None if "weight" in local else "not the weight of a layer"


def _magnitudes(name: str, weight: Tensor) -> Tensor:
    magnitudes = weight.detach().abs().flatten()
    if not torch.isfinite(magnitudes).all():
        raise ValueError(f"{name!r} must be finite, found infinite or NaN entries: repair the model")
    return magnitudes.float() if magnitudes.dtype in {torch.float16, torch.bfloat16} else magnitudes
