"""Terms: what trials of a method must have in common, so that their scores can be compared."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pliant.training.differences import differences
from pliant.training.recipe import Recipe
from pliant.training.recipe_file import from_mapping

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from pliant.report.rows import TrialRow
    from pliant.training.tuning.task import Task


class OtherTermsError(ValueError):
    """Trials that a file holds were made by another recipe, or judged in another way."""


def terms_of(task: Task) -> dict[str, Any]:
    """Return the recipe before a trial's overrides, and how trials are judged, as a recipe says both.

    Search space, leads, sampler and the number of trials are none of it: a search can be widened and go on.
    """
    effort = {"seeds": task.effort.seeds, "calibrate": task.effort.calibrate}  # the held-out share is in `data`
    return {**task.load().identity(), "tune": {"judge": task.tuning.judge, "effort": effort}}


def check_terms(task: Task, trials: Sequence[TrialRow], file: Path) -> None:
    """Check that a method's trials so far were made on the terms of those to come.

    Rows of older versions do not say theirs, and are taken.

    Args:
        task: the method.
        trials: its trials in its round.
        file: where they are.

    Raises:
        OtherTermsError: they were not; the message says what differs.
        RecipeError: a trial's recipe is none that this version reads.
    """
    now = terms_of(task)
    for row in trials:
        if row.terms is None:
            continue
        before = _up_to_date(row.terms, f"{file}: the recipe of {task.method}, trial {row.trial},")
        if changed := differences(before, now):
            raise OtherTermsError(
                f"{file} holds trials of {task.method} that are not comparable with those to come; these differ: "
                f"{changed}. Undo the change, or give the trials another file (-o FILE) or the study another round"
            )


def _up_to_date(terms: dict[str, Any], source: str) -> dict[str, Any]:
    """Return terms with the defaults of what recipes can say by now."""
    recipe = from_mapping(Recipe, {"name": "trial", **terms}, source=source)
    return {**recipe.identity(), "tune": terms.get("tune")}
