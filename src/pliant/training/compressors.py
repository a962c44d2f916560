"""From a recipe's compressor to the library's, and its label in rows and plots."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from pliant.compress import (
    L1,
    L2,
    Both,
    Energy,
    EqualError,
    EqualFraction,
    FilterPruning,
    Folded,
    Global,
    GroupNorm,
    LowRank,
    PerLayer,
    Scheme,
    SquaredEnergy,
    TensorTrain,
    UnstructuredPruning,
)
from pliant.tensor_train import Paired, Separate
from pliant.training.own_compressor import own_compressor
from pliant.training.recipe_sweep import (
    BothSpec,
    BuiltInCompressorSpec,
    CompressorSpec,
    FilterSpec,
    LowRankSpec,
    OwnCompressorSpec,
    TensorTrainSpec,
    is_measured,
    is_searched,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from pliant.compress import Compressor

    Measure = Callable[[FilterPruning], FilterPruning]

SCORES: dict[str, Callable[[], Any]] = {
    "l1": L1,
    "l2": L2,
    "group": GroupNorm,
    "folded": Folded,
}
SCOPES: dict[str, Callable[[], Any]] = {"per-layer": PerLayer, "global": Global}
SCHEMES: dict[str, Callable[[], Any]] = {scheme.value: partial(Scheme, scheme) for scheme in Scheme}
READINGS: dict[str, Callable[[], Any]] = {"separate": Separate, "paired": Paired}
RULES: dict[str, Callable[[], Any]] = {
    "equal-fraction": EqualFraction,
    "energy": Energy,
    "squared-energy": SquaredEnergy,
    "equal-error": EqualError,
}


def build_compressor(spec: CompressorSpec, measure: Measure | None = None) -> Compressor:
    """Build a compressor; what the recipe leaves out is the compressor's own default.

    Args:
        spec: of the recipe.
        measure: how filters are scored if by `reconstruction`; recipes take that only where there is a trained model.

    Raises:
        ValueError: if that is needed and missing.
    """
    if isinstance(spec, OwnCompressorSpec):
        return own_compressor(spec.type)
    if isinstance(spec, BothSpec):
        return Both(_filters(spec, measure), _low_rank(spec), spec.split)
    if isinstance(spec, LowRankSpec):
        return _low_rank(spec)
    if isinstance(spec, TensorTrainSpec):
        named = _named("rule", spec.rule, RULES) | _named("reading", spec.reading, READINGS)
        return TensorTrain(**_ignored(spec), **named)
    if isinstance(spec, FilterSpec):
        return _filters(spec, measure)
    return UnstructuredPruning(**_ignored(spec), **_named("scope", spec.scope, SCOPES))


SPLITS = (1.0, 0.75, 0.5, 0.25, 0.0)


def candidates_of(spec: CompressorSpec, measure: Measure | None = None) -> list[Compressor]:
    """Build what is to be tried where the recipe leaves the choice to a search, and the compressor alone elsewhere."""
    compressor = build_compressor(spec, measure)
    if is_searched(spec) and isinstance(compressor, Both):
        return [replace(compressor, split=split) for split in SPLITS]
    return [compressor]


def _filters(spec: FilterSpec | BothSpec, measure: Measure | None) -> FilterPruning:
    named = _ignored(spec) | _named("scope", spec.scope, SCOPES)
    if not is_measured(spec):
        return FilterPruning(**named, **_named("score", spec.score, SCORES))
    if measure is None:
        raise ValueError("the score reconstruction needs a trained model and images to measure it on")
    return measure(FilterPruning(**named))


def _low_rank(spec: LowRankSpec | BothSpec) -> LowRank:
    return LowRank(**_ignored(spec), **_named("rule", spec.rule, RULES), **_named("scheme", spec.scheme, SCHEMES))


def _ignored(spec: BuiltInCompressorSpec) -> dict[str, Any]:
    return {"ignore": tuple(spec.ignore)} if spec.ignore else {}


def label_of(spec: CompressorSpec) -> str:
    """Return the compressor's name and the options that were given: "filters", "filters (score l2)"."""
    given = spec.model_dump(exclude_defaults=True)
    options = [f"{name} {_text(value)}" for name, value in given.items() if name != "type"]
    return f"{spec.type} ({', '.join(options)})" if options else spec.type


def _named(name: str, value: str | None, table: dict[str, Callable[[], Any]]) -> dict[str, Any]:
    return {} if value is None else {name: table[value]()}


def _text(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)
