"""Tune: trials run one after the other, each a row on disk as soon as it is known."""

from __future__ import annotations

import tempfile
import time
from contextlib import suppress
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from pliant.exclusive import exclusive
from pliant.report.rows import MetricsRow, SweepRow, TrialRow, append_row, read_rows, repair
from pliant.training.experiment import load_run, train
from pliant.training.folder import RunFolder
from pliant.training.recipe_file import from_mapping
from pliant.training.recipe_sweep import SweepSection
from pliant.training.sweeping import sweep_run
from pliant.training.tuning.search import next_setting
from pliant.training.tuning.task import written
from pliant.training.tuning.terms import check_terms, terms_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from pliant.training.recipe import Recipe
    from pliant.training.tuning.task import Task


class StoppedError(Exception):
    """The run of a trial was stopped from outside; the trial is not recorded."""


def tune(tasks: Sequence[Task], file: Path, *, stop: Callable[[], bool] = lambda: False) -> Iterator[TrialRow]:
    """Run the trials that the file does not hold yet; each row is on disk before it is yielded.

    Args:
        tasks: the methods.
        file: of trials, JSONL; rows of other methods and rounds stay as they are and do not count.
        stop: asked after every batch; True ends the search, and the trial under way is not recorded.

    Raises:
        InUseError: another process adds trials to the file.
        OtherTermsError: before the first trial, if the file holds trials of a method that were made by another recipe,
            or judged in another way.
        RecipeError: likewise, if a method that lacks trials has too few settings, or some that its recipe does not
            take.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    if not _unfinished(tasks, read_rows(file, TrialRow), file):
        return
    file.touch()
    with exclusive(file):
        repair(file, TrialRow)  # which may put another file in its place
    with exclusive(file), suppress(StoppedError):
        rows = read_rows(file, TrialRow)
        for task in _unfinished(tasks, rows, file):
            yield from _rest(task, rows, file, stop)


def trials_of(task: Task, rows: Sequence[TrialRow]) -> list[TrialRow]:
    """Return the trials of a method in its round, in order."""
    return [row for row in rows if (row.method, row.round) == (task.method, task.round)]


def _unfinished(tasks: Sequence[Task], rows: Sequence[TrialRow], file: Path) -> list[Task]:
    """Return the methods that lack trials, all of them checked."""
    for task in tasks:
        check_terms(task, trials_of(task, rows), file)
    unfinished = [task for task in tasks if len(trials_of(task, rows)) < task.effort.trials]
    for task in unfinished:
        task.check()
    return unfinished


def _rest(task: Task, rows: list[TrialRow], file: Path, stop: Callable[[], bool]) -> Iterator[TrialRow]:
    """Run the trials that a method lacks, and add them to the rows and to the file."""
    while len(done := trials_of(task, rows)) < task.effort.trials:
        row = _trial(task, next_setting(task, done), len(done), stop)
        append_row(file, row)
        rows.append(row)
        yield row


def _trial(task: Task, overrides: dict[str, Any], number: int, stop: Callable[[], bool]) -> TrialRow:
    started = time.monotonic()
    about: dict[str, Any] = {"method": task.method, "round": task.round, "trial": number, "overrides": overrides}
    about |= {"seeds": list(task.effort.seeds), "terms": terms_of(task)}
    try:
        runs = [_run(task, [*written(overrides), f"seed={seed}"], stop) for seed in task.effort.seeds]
    except ArithmeticError as error:  # a setting that diverges is a result
        return TrialRow(**about, score=None, dense=None, rows=[], error=str(error), seconds=time.monotonic() - started)
    rows = [_mean([swept[i] for swept, _ in runs]) for i in range(len(runs[0][0]))]
    return TrialRow(
        **about,
        score=fmean(row[2] if row[3] is None else row[3] for row in rows),
        dense=fmean(last.eval_accuracy for _, last in runs),
        rows=rows,
        evaluations=fmean(last.evaluations or 0 for _, last in runs),
        seconds=time.monotonic() - started,
    )


def _run(task: Task, overrides: list[str], stop: Callable[[], bool]) -> tuple[list[SweepRow], MetricsRow]:
    """Train one seed, cut it, and return the rows of the cuts and of the last epoch."""
    recipe: Recipe = task.load(overrides)
    with tempfile.TemporaryDirectory() as scratch:
        folder = RunFolder(Path(scratch) / "run")
        if not train(recipe, folder, stop=stop):
            raise StoppedError
        trained = load_run(folder)
        rows: list[SweepRow] = []
        for name, fractions in task.tuning.judge.items():
            asked = {"compressors": [name], "fractions": fractions, "calibrate": task.effort.calibrate}
            rows += sweep_run(trained, from_mapping(SweepSection, asked, source="the judge"))
        return rows, read_rows(folder.metrics, MetricsRow)[-1]


def _mean(cells: Sequence[SweepRow]) -> list[Any]:
    """Return compressor, fraction, and accuracy straight after the cut and after recalibration, over the seeds."""
    after = [cell.recalibrated for cell in cells if cell.recalibrated is not None]
    recalibrated = fmean(after) if len(after) == len(cells) else None
    return [cells[0].compressor, cells[0].fraction, fmean(cell.raw for cell in cells), recalibrated]
