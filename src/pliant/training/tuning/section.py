"""The `tune` section of a recipe, and study files, which tune several recipes alike."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from pliant.training.own_compressor import own_compressor
from pliant.training.recipe_section import Section, Share
from pliant.training.tuning.space import Space

_COMPRESSORS = ("filters", "low-rank", "both", "unstructured")


def _compressor(name: str) -> str:
    if ":" in name:
        own_compressor(name)
    elif name not in _COMPRESSORS:
        raise ValueError(f"must be one of {', '.join(_COMPRESSORS)}, or 'package.module:name', found {name!r}")
    return name


Fractions = Annotated[list[Share], Field(min_length=1)]
Judge = Annotated[dict[Annotated[str, AfterValidator(_compressor)], Fractions], Field(min_length=1)]
Overrides = dict[str, Any]


def _the_recipe_as_it_stands() -> list[Overrides]:
    return [{}]


class Effort(Section):
    """What every method of a comparison gets alike.

    A trial is trained with every seed on the training set less the share `holdout`, cut at the fractions of the judge,
    and scored by the mean accuracy on what was held out, after recalibration on `calibrate` images. The test set is
    never looked at.
    """

    trials: int = Field(default=10, ge=1)
    holdout: Annotated[float, Field(gt=0, lt=1)] = 1 / 6
    seeds: list[Annotated[int, Field(ge=0)]] = Field(default_factory=lambda: [0], min_length=1)
    calibrate: int = Field(default=1024, ge=0)
    sampler: Literal["tpe", "random"] = "tpe"


class TuneSection(Section):
    """What may be chosen for a recipe, and how a choice is judged.

    Keys of `space` are those of overrides, such as method.lr; values are lists, or ranges {low, high, log}. `leads`
    are tried first: by default one, the recipe as it stands. `effort` is for `pliant tune` of the recipe alone; a
    study file says the effort of all its recipes.
    """

    space: Space = Field(default_factory=dict)
    leads: list[Overrides] = Field(default_factory=_the_recipe_as_it_stands)
    judge: Judge
    effort: Effort = Effort()


class Part(Section):
    """A method of a study: its recipe, and what its own `tune` section does not say or says otherwise."""

    recipe: str | None = None
    space: Space | None = None
    leads: list[Overrides] | None = None
    judge: Judge | None = None


class StudySection(Effort):
    """A study file: several recipes, tuned with the same effort.

    The recipe of a method is `recipe`, or METHOD.yaml, in the folder `recipes` (where the study file lies).
    """

    round: str = "1"
    recipes: str = "."
    methods: Annotated[dict[str, Part], Field(min_length=1)]
