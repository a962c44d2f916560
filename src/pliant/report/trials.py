"""Trials of a search as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean

from pliant.methods.claim import Claim
from pliant.report.rows import TrialRow
from pliant.report.tables import Table


def trial_line(row: TrialRow) -> str:
    """Return one trial as a line."""
    setting = ", ".join(f"{key} {value}" for key, value in row.overrides.items()) or "the recipe as it stands"
    result = f"diverged ({row.error})" if row.score is None else f"score {row.score:.2%}, dense {row.dense:.2%}"
    return f"{row.method}, trial {row.trial}: {result}; {setting}"


def trials_table(trials: Mapping[str, Sequence[TrialRow]], claims: Mapping[str, Claim]) -> Table:
    """A row a method: class, trials, gradients of a run, and the best score with that setting's uncut accuracy.

    Args:
        trials: of every method.
        claims: class of every method.
    """
    head = ("method", "class", "trials", "diverged", "gradients", "best score", "its dense accuracy")
    rows = [(name, str(claims[name]), *_cells(found)) for name, found in trials.items()]
    return Table("Trials, scored by the mean accuracy (%) over cuts on held-out images", head, tuple(rows))


def best_of(trials: Sequence[TrialRow]) -> TrialRow | None:
    """Return the first of the trials with the highest score; None where all of them diverged."""
    scored = [row for row in trials if row.score is not None]
    return max(scored, key=lambda row: row.score or 0.0, default=None)


def _cells(rows: Sequence[TrialRow]) -> tuple[str, ...]:
    best = best_of(rows)
    scored = [row for row in rows if row.score is not None]
    counted = [row.evaluations for row in scored if row.evaluations is not None]
    gradients = f"{fmean(counted):,.0f}" if counted else "-"
    numbers = (str(len(rows)), str(len(rows) - len(scored)), gradients)
    if best is None:
        return (*numbers, "-", "-")
    return (*numbers, f"{100 * (best.score or 0.0):.2f}", f"{100 * (best.dense or 0.0):.2f}")
