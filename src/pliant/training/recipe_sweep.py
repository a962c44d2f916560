"""The `sweep` section of a recipe: which compressors cut how much."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from pliant.own import is_path
from pliant.training.own_compressor import own_compressor
from pliant.training.own_section import OrOwn
from pliant.training.recipe_section import Section, Share, by_type


class FilterSpec(Section):
    """Filter pruning: how a filter is scored, and whether all layers lose the same share.

    The score `reconstruction` is measured on the images that a sweep reconstructs with, so that sweeps and
    `pliant compress` alone take it; `filters:reconstruction` is short for it.
    """

    type: Literal["filters"]
    score: Literal["l1", "l2", "group", "folded", "reconstruction"] | None = None
    scope: Literal["per-layer", "global"] | None = None
    ignore: list[str] = Field(default_factory=list)


class LowRankSpec(Section):
    """Low-rank decomposition: how ranks are shared out over the layers, and which matrix of a convolution has them.

    By the scheme `spatial` a k x k convolution becomes k x 1 and 1 x k; `low-rank:spatial` is short for it.
    """

    type: Literal["low-rank"]
    rule: Literal["equal-fraction", "energy", "squared-energy", "equal-error"] | None = None
    scheme: Literal["channel", "spatial"] | None = None
    ignore: list[str] = Field(default_factory=list)


class TensorTrainSpec(Section):
    """Tensor trains: how ranks are shared out, and whether a mode holds outputs and inputs or one of them."""

    type: Literal["tensor-train"]
    rule: Literal["equal-fraction", "energy", "squared-energy", "equal-error"] | None = None
    reading: Literal["separate", "paired"] | None = None
    ignore: list[str] = Field(default_factory=list)


class BothSpec(Section):
    """Filters, then the rank of what is left: the options of both.

    `split` says how much of a budget's reduction is made by filters, on a logarithmic scale; null for a solver. With
    `search: closest` several are tried on the images that a sweep reconstructs with, filters alone and rank alone among
    them, and the one whose outputs are closest to the whole model's is taken; `both:closest` is short for it, with
    measured scores. `both:reconstruction:spatial` is short for measured scores and spatial ranks.
    """

    type: Literal["both"]
    score: Literal["l1", "l2", "group", "folded", "reconstruction"] | None = None
    scope: Literal["per-layer", "global"] | None = None
    rule: Literal["equal-fraction", "energy", "squared-energy", "equal-error"] | None = None
    scheme: Literal["channel", "spatial"] | None = None
    split: Annotated[float, Field(ge=0, le=1)] | None = 0.5
    search: Literal["closest"] | None = None
    ignore: list[str] = Field(default_factory=list)


class UnstructuredSpec(Section):
    """Single weights."""

    type: Literal["unstructured"]
    scope: Literal["per-layer", "global"] | None = None
    ignore: list[str] = Field(default_factory=list)


def _makes_a_compressor(name: str) -> str:
    try:
        own_compressor(name)
    except ValueError as error:
        raise ValueError(f"{error}; those of the package are {', '.join(by_type(BuiltInCompressorSpec))}") from error
    return name


class OwnCompressorSpec(Section):
    """A compressor of the user's own: what the import path names makes it, called without arguments."""

    type: Annotated[str, AfterValidator(_makes_a_compressor)]


BuiltInCompressorSpec = FilterSpec | LowRankSpec | TensorTrainSpec | BothSpec | UnstructuredSpec


def _from_name(value: Any) -> Any:  # noqa: ANN401  (whatever the file holds; pydantic judges it)
    if not isinstance(value, str):
        return value
    name, *words = value.split(":")
    if words and name not in by_type(BuiltInCompressorSpec) and is_path(value):
        return {"type": value}
    given = {"type": name}
    for word in words:
        added = _meaning(name, word)
        if any(given.get(option, meant) != meant for option, meant in added.items()):
            raise ValueError(f"{word!r} contradicts what stands before it in {value!r}: leave one out")
        given |= added
    return given


def _meaning(name: str, word: str) -> dict[str, str]:
    """Return the options that a word behind a compressor's name stands for."""
    if word in _SCHEMES:
        if name not in _DECOMPOSED:
            raise ValueError(f"a scheme, as in low-rank:spatial, is for {' and '.join(_DECOMPOSED)}, found {name!r}")
        return {"scheme": word}
    if name not in _SCORED:
        allowed = f"{name} takes {' or '.join(_SCHEMES)}" if name in _DECOMPOSED else f"{name} takes no word"
        raise ValueError(f"{allowed}; a score, as in filters:l2, is for {' and '.join(_SCORED)}: found {word!r}")
    if (name, word) == ("both", "closest"):
        return {"score": "reconstruction", "search": word}
    return {"score": word}


_SCORED = ("filters", "both")
_DECOMPOSED = ("low-rank", "both")
_SCHEMES = ("channel", "spatial")


def score_of(spec: CompressorSpec) -> str | None:
    """Return how filters are scored, None if the recipe does not say or there are none."""
    return spec.score if isinstance(spec, FilterSpec | BothSpec) else None


def is_measured(spec: CompressorSpec) -> bool:
    """Tell whether a compressor's scores have to be measured on images."""
    return score_of(spec) == "reconstruction"


def is_searched(spec: CompressorSpec) -> bool:
    """Tell whether the best of several compressors has to be found on images."""
    return isinstance(spec, BothSpec) and spec.search is not None


def short_name(spec: CompressorSpec) -> str:
    """Return the name that stands for a compressor, its score and its scheme, other options left out: "filters:l2"."""
    score = "closest" if is_searched(spec) else score_of(spec)
    return ":".join(word for word in (spec.type, score, scheme_of(spec)) if word)


def is_decomposed(spec: CompressorSpec) -> bool:
    """Tell whether ranks are cut, so that there is a scheme to be chosen."""
    return isinstance(spec, LowRankSpec | BothSpec)


def scheme_of(spec: CompressorSpec) -> Literal["channel", "spatial"] | None:
    """Return which matrix of a convolution is cut, None if the recipe does not say or none is."""
    return spec.scheme if isinstance(spec, LowRankSpec | BothSpec) else None


def _computed(spec: CompressorSpec) -> CompressorSpec:
    if is_measured(spec):
        raise ValueError("the score reconstruction is measured after training: name another one here")
    if is_searched(spec):
        raise ValueError("search: the closest is found after training, leave it out here")
    return spec


CompressorSpec = Annotated[
    BuiltInCompressorSpec | OwnCompressorSpec, OrOwn(OwnCompressorSpec), BeforeValidator(_from_name)
]
TrainingCompressorSpec = Annotated[CompressorSpec, AfterValidator(_computed)]


def _every_compressor() -> list[CompressorSpec]:
    return [FilterSpec(type="filters"), LowRankSpec(type="low-rank"), UnstructuredSpec(type="unstructured")]


def _tenths() -> list[float]:
    return [tenth / 10 for tenth in range(10)]


class ProbeSection(Section):
    """A cut that is tried after every epoch: the relative distance of the model to it goes into the metrics."""

    compressor: TrainingCompressorSpec
    fraction: Share


class SweepSection(Section):
    """Compressors, fractions removed, and images for repairs after the cut.

    A compressor is a name, a name and a score as in `filters:l2`, or a mapping with options; or, for one of your own,
    `package.module:name`, a class or a function that makes it without arguments. `fractions` are of the
    atoms, `macs` of the multiply-accumulates: to those all compressors but unstructured are cut besides, each layer as
    the budget shares it out. `calibrate` is the number of training images for the recalibration of BatchNorm,
    `reconstruct` that for the reconstruction of layers by least squares; 0 is for none.
    """

    compressors: list[CompressorSpec] = Field(default_factory=_every_compressor, min_length=1)
    fractions: list[Share] = Field(default_factory=_tenths)
    macs: list[Share] = Field(default_factory=list)
    calibrate: int = Field(default=1024, ge=0)
    reconstruct: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _cuts(self) -> Self:
        if not self.fractions and not self.macs:
            raise ValueError("fractions and macs are both empty: name at least one share to remove")
        if self.macs and all(isinstance(spec, UnstructuredSpec) for spec in self.compressors):
            raise ValueError("macs need a compressor that makes the model smaller, found unstructured alone: add one")
        if not self.reconstruct and any(map(is_measured, self.compressors)):
            raise ValueError("the score reconstruction is measured on images: set reconstruct to a number, 1024 say")
        if not self.reconstruct and any(map(is_searched, self.compressors)):
            raise ValueError("search: the closest is found on images: set reconstruct to a number, 1024 say")
        return self
