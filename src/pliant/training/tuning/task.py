"""Task: one method to be tuned, from a recipe or a study file."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pliant.training.recipe import Recipe
from pliant.training.recipe_file import RecipeError, from_mapping, parse
from pliant.training.tuning.section import Effort, Part, StudySection, TuneSection
from pliant.training.tuning.space import corner_of, settings_in

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pliant.report.rows import TrialRow


@dataclass(frozen=True)
class Task:
    """A method and the effort that it gets.

    Args:
        method: its name in the file of trials.
        round: of the study; trials of other rounds do not count.
        recipe: the file.
        given: overrides of every trial, before those of the trial.
        tuning: what may be chosen, and the judge.
        effort: trials, seeds, held-out share.
    """

    method: str
    round: str
    recipe: Path
    given: tuple[str, ...]
    tuning: TuneSection
    effort: Effort

    def load(self, overrides: Sequence[str] = ()) -> Recipe:
        """Read the recipe of a trial, its own `tune` section left out."""
        held_out = f"data.holdout={self.effort.holdout}"
        return Recipe.from_yaml(self.recipe, [*self.given, *overrides, held_out, "tune=null"])

    def setting(self, trial: TrialRow) -> list[str]:
        """Return the overrides of the recipe that train what a trial tried, on all training images."""
        own = ("tune.", "tune=")  # of the search
        return [*(text for text in self.given if not text.strip().startswith(own)), *written(trial.overrides)]

    def check(self) -> None:
        """Check that there are enough settings, and that leads and space fit the recipe.

        Raises:
            RecipeError: they are too few, or do not.
        """
        space, leads = self.tuning.space, self.tuning.leads
        most = len(leads) + settings_in(space)
        if most < self.effort.trials:
            raise RecipeError(
                f"{self.method}: {self.effort.trials} trials need as many settings, found {most:g} at most"
            )
        for setting in [*leads, corner_of(space)]:
            self.load(written(setting))


def tasks_of(path: Path, only: Sequence[str] = (), given: Sequence[str] = ()) -> list[Task]:
    """Read what is to be tuned.

    Args:
        path: a recipe with a `tune` section, or a study file.
        only: the methods meant; empty: all.
        given: overrides for every trial of every method, such as "train.epochs=2".

    Raises:
        RecipeError: the file or one of its recipes is not valid, or has nothing to tune.
    """
    try:
        data = parse(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"cannot read {path}: {error}") from error
    if not isinstance(data, dict) or "methods" not in data:
        tasks = [_of_recipe(path, given)]
    else:
        study = from_mapping(StudySection, data, source=str(path))
        tasks = [_of_part(path, study, name, part, given) for name, part in study.methods.items()]
    known = [task.method for task in tasks]
    unknown = [name for name in only if name not in known]
    if unknown:
        raise RecipeError(f"{path} has no method {', '.join(unknown)}; it has {', '.join(known)}")
    return [task for task in tasks if not only or task.method in only]


def _of_recipe(path: Path, given: Sequence[str]) -> Task:
    recipe = Recipe.from_yaml(path, list(given))
    if recipe.tune is None:
        raise RecipeError(f"{path} has no tune section: add tune: {{space: ..., judge: ...}}, or give a study file")
    return Task(path.stem, "1", path, tuple(given), recipe.tune, recipe.tune.effort)


def _of_part(path: Path, study: StudySection, name: str, part: Part, given: Sequence[str]) -> Task:
    file = path.parent / study.recipes / (part.recipe or f"{name}.yaml")
    own = Recipe.from_yaml(file, list(given)).tune
    said = {} if own is None else own.model_dump(exclude={"effort"})
    said |= {key: value for key, value in part.model_dump(exclude={"recipe"}).items() if value is not None}
    tuning = from_mapping(TuneSection, said, source=f"{path}, method {name}")
    effort = Effort(**{key: getattr(study, key) for key in Effort.model_fields})
    return Task(name, study.round, file, tuple(given), tuning, effort)


def written(overrides: dict[str, object]) -> list[str]:
    """Return overrides as on the command line; values are JSON, which YAML reads."""
    return [f"{key}={json.dumps(value)}" for key, value in overrides.items()]
