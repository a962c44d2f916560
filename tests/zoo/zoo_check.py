"""Cut one architecture, and say what became of it."""

from __future__ import annotations

import copy
import re
from collections import Counter
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from zoo_models import Architecture

from pliant import recalibrate_batchnorm
from pliant.compress import Compressor, Cut, FilterPruning, Layers, LowRank
from pliant.compress.verify import deterministic
from pliant.metrics.size import size
from pliant.structure.example import call
from pliant.structure.matricise import is_layer
from pliant.structure.outputs import outputs_of

FRACTIONS = {FilterPruning(layers=Layers.ALL): (0.3, 0.7), LowRank(): (0.5,)}
TOLERANCES = {torch.float32: 1e-5, torch.float64: 1e-10}
LARGE = 3_000_000  # parameters: singular values in float64 would take minutes
OUTPUTS = "they make outputs"


@dataclass(frozen=True)
class Outcome:
    """What the largest cut of an architecture did.

    Args:
        groups: groups of channels, or layers, that lost some.
        parameters: share of the parameters that is left.
        macs: share of the MACs that is left.
        whole: layers that lose nothing, apart from output layers: why -> how many.
    """

    groups: int
    parameters: float
    macs: float
    whole: dict[str, int]


@dataclass(frozen=True)
class Subject:
    """A model with what it can be called with, and another example."""

    model: nn.Module
    example: Tensor
    other: Tensor

    def to(self, dtype: torch.dtype) -> Subject:
        """Return the same in another precision."""
        examples = [x.to(dtype) if x.is_floating_point() else x for x in (self.example, self.other)]
        return Subject(copy.deepcopy(self.model).to(dtype), *examples)

    def instead(self, model: nn.Module) -> Subject:
        """Return another model with the same examples."""
        return Subject(model, self.example, self.other)


def build(architecture: Architecture) -> Subject:
    """Return a model in which no parameter is constant, and every norm has the statistics of what it is given."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        model = architecture.build()
        for parameter in model.parameters():
            if parameter.numel() > 1 and bool((parameter == parameter.flatten()[0]).all()):
                centre = 1.0 if bool((parameter == 1).all()) else 0.0
                parameter.copy_(centre + torch.empty_like(parameter).uniform_(-0.4, 0.4))
        example, other = architecture.example(), architecture.example()
        return Subject(recalibrate_batchnorm(model, [example, other]), example, other)


def check(subject: Subject, compressor: Compressor) -> Outcome:
    """Cut at all fractions of the compressor, and check every promise."""
    modes = [training for training in (False, True) if _repeats(subject, training=training)]
    for fraction in FRACTIONS[compressor]:
        cut = compressor.select(subject.model, fraction, example=subject.example)
        assert Cut.from_json(cut.to_json()) == cut
        for dtype, tolerance in _tolerances(compressor, cut).items():
            wide = subject.to(dtype)
            truncated = wide.instead(compressor.truncate(wide.model, cut))
            realised = wide.instead(compressor.realise(wide.model, cut))
            for training in modes:
                _check_same(truncated, realised, tolerance, training=training)
        counted = size(compressor.realise(subject.model, cut), subject.example)
        assert (counted.parameters, counted.macs) == (cut.parameters, cut.macs)
        assert cut.parameters < cut.dense_parameters or set(cut.reduced()) <= set(cut.left_dense)
    return Outcome(
        len(set(cut.reduced()) - set(cut.left_dense)), cut.parameters / cut.dense_parameters,
        cut.macs / cut.dense_macs, _whole(subject.model, cut),
    )  # fmt: skip


def _tolerances(compressor: Compressor, cut: Cut) -> dict[torch.dtype, float]:
    short = isinstance(compressor, LowRank) and cut.dense_parameters > LARGE
    return {torch.float32: TOLERANCES[torch.float32]} if short else TOLERANCES


def _check_same(truncated: Subject, realised: Subject, tolerance: float, *, training: bool) -> None:
    expected, found = (_outputs(one, one.example, training=training) for one in (truncated, realised))
    elsewhere = _outputs(truncated, truncated.other, training=training)
    for index, (a, b, c) in enumerate(zip(expected, found, elsewhere, strict=True)):
        assert _largest(a - c) > 1e-6 * _largest(a), "the outputs do not depend on the input"
        # What is nearly constant shows nothing in units of itself, but its rounding is what it is.
        allowed = tolerance * _largest(a - c if a.dtype == torch.float64 else a)
        if a.dtype == torch.float32 and _largest(a - b) > allowed:  # batch statistics of few values amplify rounding
            allowed = sum(_rounding(one, index, training=training) for one in (truncated, realised))
        assert _largest(a - b) <= allowed, f"{a.dtype}, {training=}: outputs differ by {_largest(a - b)}, not {allowed}"


def _rounding(subject: Subject, index: int, *, training: bool) -> float:
    """Return how far one output is from what the same weights give in float64."""
    wide = subject.to(torch.float64)
    exact = _outputs(wide, wide.example, training=training)[index]
    return _largest(_outputs(subject, subject.example, training=training)[index] - exact)


def _largest(values: Tensor) -> float:
    return float(values.abs().max())


def _outputs(subject: Subject, example: Tensor, *, training: bool) -> list[Tensor]:
    twin = copy.deepcopy(subject.model)
    with deterministic(twin, training=training):
        return [tensor.detach() for tensor, _ in outputs_of(call(twin, example))]


def _repeats(subject: Subject, *, training: bool) -> bool:
    """Tell whether the model computes the same twice; some draw numbers in training that no seed of torch fixes."""
    first, second = (_outputs(subject, subject.example, training=training) for _ in range(2))
    return all(map(torch.equal, first, second))


def _whole(model: nn.Module, cut: Cut) -> dict[str, int]:
    layers = {name for name, module in model.named_modules() if is_layer(module)}
    return dict(Counter(_short(reason) for name, reason in cut.skipped.items() if name in layers))


def _short(reason: str) -> str:
    """Return a reason without names and numbers, in the plural."""
    for start, short in _SHORT.items():
        if reason.startswith(start):
            return short
    return re.sub(r"aten\.", "", re.sub(r" in ('[^']*'|the model)|'[^']*'", "", reason))


_SHORT = {
    "an output of the model": OUTPUTS,
    "its forward computes with a fixed width": "the forward around them computes with a fixed width",
    "its channels are split into equal parts": "their channels are split into equal parts, which ties them all",
    "its channels are normalised together": "their channels are normalised together",
    "it meets a tensor of fixed width": "they meet a tensor of fixed width",
    "it meets channels that must stay": "they meet channels that must stay",
    "its channels are mixed by aten.mean": "their channels are averaged",
    "shares its weights with": "they share weights with another layer",
    "its forward is not called on the example": "its forward is not called on the example",
    "its weight is parametrised": "their weights are parametrised",
}
