"""Train, sweep and report what a suite lists, as far as that is not done.

    python scripts/suite.py recipes/suites/cpu.yaml
    python scripts/suite.py recipes/suites/gpu.yaml --minutes 9      # again and again, until it says that all is done

Every run can be interrupted and goes on where it was. One seed of everything comes before the next seed of anything,
and reports are written from what there is, so that a suite is of use before its end. What the folder of results holds
already, from another machine, is not run again if no cut is missing, and stays in the report; `-o` elsewhere, to begin
anew.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

import torch
from pydantic import Field

from pliant.data import DatasetNotFoundError
from pliant.report.archive import read_records
from pliant.report.curves import cuts_of
from pliant.report.gaps import gaps
from pliant.report.publish import publish_study
from pliant.report.rows import SweepRow, read_rows
from pliant.report.study import Record, identity, read_record, study
from pliant.training.build import load_data
from pliant.training.divergence import DIVERGED
from pliant.training.experiment import complete, load_run
from pliant.training.folder import RunFolder
from pliant.training.recipe import Recipe
from pliant.training.recipe_file import from_mapping, parse
from pliant.training.recipe_section import Section
from pliant.training.recipe_sweep import SweepSection
from pliant.training.sweeping import series_of, sweep_run


class Member(Section):
    """A recipe of a report, with what is changed in it. Runs are named by the report and by `name`."""

    name: str
    recipe: str
    preset: str | None = None
    override: list[str] = Field(default_factory=list)


class Report(Section):
    """What stands side by side in one folder of results; `override` holds for all of its runs."""

    title: str
    override: list[str] = Field(default_factory=list)
    runs: list[Member] = Field(min_length=1)


class Suite(Section):
    """Reports by their folder below the folder of results."""

    seeds: list[int] = Field(min_length=1)
    reports: dict[str, Report]


@dataclass(frozen=True)
class Task:
    """One run of one report, and how many images it learns from; None where its data is not there."""

    report: str
    recipe: Recipe
    folder: RunFolder
    images: int | None = None

    def has(self, asked: int, seen: int) -> bool:
        """Tell whether a repair saw as many images as it was to see; one that was not asked for does no harm."""
        return asked == 0 or seen == (asked if self.images is None else min(asked, self.images))


def perform(task: Task, stop: Callable[[], bool] = lambda: False) -> bool:
    """Train a run and sweep it, as far as that is not done; return whether nothing is left that can be done."""
    recipe, folder = task.recipe, task.folder
    if is_taken(folder, recipe):
        print(f"left out: {folder.path} holds a run of other settings; move it away to train this one", flush=True)
        return False
    if folder.info.exists() and (info := folder.read_info()).status == "diverged":
        print(f"left out: {folder.path} diverged: {info.reason}", flush=True)
        return False
    try:
        if not complete(recipe, folder, stop=stop):
            return False
    except DIVERGED as error:  # the other runs are as good as before
        print(f"{folder.path} diverged: {error}", flush=True)
        return False
    if sections := missing(task, rows_in(folder)):
        run = load_run(folder)
        for row in chain.from_iterable(sweep_run(run, section) for section in sections):
            print(f"{recipe.run_name}: {row.compressor} {row.fraction:.0%}: {row.raw:.2%}", flush=True)
            if stop():
                return not missing(task, rows_in(folder))
    return True


def rows_in(folder: RunFolder) -> list[SweepRow]:
    """Return the cuts of a run so far."""
    return read_rows(folder.sweep, SweepRow)


def missing(task: Task, rows: Sequence[SweepRow]) -> list[SweepSection]:
    """Return the cuts that a task asks for and that have no row yet, a section for each series.

    A row counts if every repair that is asked for saw as many images as it should, or all that there are.
    """
    asked = task.recipe.sweep
    done = {
        key
        for key, row in cuts_of(rows).items()
        if task.has(asked.calibrate, row.calibrate) and task.has(asked.reconstruct, row.reconstruct)
    }
    sections = []
    for series in series_of(asked):
        left = [fraction for fraction in series.fractions if (series.label, round(fraction, 9)) not in done]
        if left:
            only = {"compressors": [series.compressor], "fractions": [], "macs": []} | {series.key: left}
            sections.append(asked.model_copy(update=only))
    return sections


def cuts_left(task: Task, rows: Sequence[SweepRow]) -> int:
    """Return how many cuts have no row yet."""
    return sum(len(series.fractions) for section in missing(task, rows) for series in series_of(section))


def main(arguments: Sequence[str] | None = None) -> None:
    """Do what fits into the time, and write the reports."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("suite", type=Path)
    parser.add_argument("--minutes", type=float, help="stop in time; without end if it is not given")
    parser.add_argument("--seeds", type=int, help="at most so many")
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("-o", "--output", type=Path, default=Path("results"))
    options = parser.parse_args(arguments)
    suite = read(options.suite)
    end = None if options.minutes is None else time.monotonic() + 60 * options.minutes

    def over() -> bool:
        return end is not None and time.monotonic() > end

    every = with_sizes(tasks_of(suite, options.runs))
    tasks = [task for task in every if task.images is not None and task.recipe.seed in suite.seeds[: options.seeds]]
    archives = {name: Archive.of(options.output / name) for name in suite.reports}
    for name, archive in archives.items():
        if other := archive.strangers(task for task in every if task.report == name):
            print(f"left out of the report, since the suite has other settings: {', '.join(other)}", flush=True)
    done = [
        task for task in tasks if archives[task.report].holds(task) or (swept(task) if over() else perform(task, over))
    ]
    for name, one in suite.reports.items():
        records = [record for task in every if task.report == name and (record := archives[name].best(task))]
        if records:
            entries = study(records)
            publish_study(options.output / name, entries, title=one.title)
            print("".join(f"warning: {gap}\n" for gap in gaps(entries)), end="", flush=True)
    left = len(tasks) - len(done)
    print(f"{len(done)} of {len(tasks)} runs are done" + (": run it again" if left else ""))
    sys.exit(left > 0)


def read(path: Path) -> Suite:
    """Return the suite that a file holds."""
    return from_mapping(Suite, parse(path.read_text(encoding="utf-8"), str(path)), source=str(path))


def tasks_of(suite: Suite, runs: Path) -> Iterator[Task]:
    """Yield all runs, seed by seed."""
    for seed in suite.seeds:
        for name, listed in suite.reports.items():
            for member in listed.runs:
                named = [f"name={name}/{member.name}-{{seed}}", f"seed={seed}"]
                given = [*listed.override, *member.override, *named]
                recipe = Recipe.from_yaml(member.recipe, given, preset=member.preset)
                yield Task(name, recipe, RunFolder(runs / recipe.run_name))


def with_sizes(tasks: Iterable[Task]) -> list[Task]:
    """Return the tasks with the sizes of their data, and say what is left out for want of data before hours pass."""
    sizes: dict[str, int | None] = {}
    sized = []
    for task in tasks:
        data = task.recipe.data
        key = data.model_dump_json(include={"name", "root", "args", "holdout"})
        if key not in sizes:
            sizes[key] = size_of(task.recipe)
        sized.append(replace(task, images=sizes[key]))
    return sized


def size_of(recipe: Recipe) -> int | None:
    """Return how many images a recipe learns from; None, and why, if they are not there."""
    try:
        return len(load_data(recipe, torch.device("cpu")).learn)
    except DatasetNotFoundError as error:
        print(f"left out, all runs on {recipe.data.name}: {error}", flush=True)
        return None


def rows_of(task: Task) -> list[SweepRow]:
    """Return the cuts of a task's run so far; none if what is in its folder is a run of other settings."""
    begun = task.folder.recipe.exists() and task.folder.sweep.exists()
    return rows_in(task.folder) if begun and not is_taken(task.folder, task.recipe) else []


def is_taken(folder: RunFolder, recipe: Recipe) -> bool:
    """Tell whether there is a run of other settings in a folder."""
    return folder.recipe.exists() and identity(Recipe.from_yaml(folder.recipe)) != identity(recipe)


def swept(task: Task) -> bool:
    """Tell whether a run that was trained here has all of its rows."""
    rows = rows_of(task)
    return bool(rows) and not missing(task, rows)


@dataclass(frozen=True)
class Archive:
    """What a report held before: runs by what makes them one method, and their seeds."""

    records: Mapping[tuple[str, int], Record]

    @classmethod
    def of(cls, folder: Path) -> Archive:
        """Return what a folder holds."""
        return cls({(identity(record.recipe), record.recipe.seed): record for record in read_records(folder)})

    def holds(self, task: Task) -> bool:
        """Tell whether nothing of a task is missing."""
        found = self._find(task)
        return found is not None and not missing(task, found.sweep)

    def best(self, task: Task) -> Record | None:
        """Return what there is of a task, by its name there; rows of two trainings are never mixed."""
        found = self._find(task)
        here = rows_of(task)
        if here and (found is None or cuts_left(task, here) <= cuts_left(task, found.sweep)):
            return read_record(task.folder.path)
        return found and replace(found, recipe=found.recipe.model_copy(update={"name": task.recipe.name}))

    def strangers(self, tasks: Iterable[Task]) -> list[str]:
        """Return the names of runs that none of the tasks is."""
        known = {_key(task) for task in tasks}
        return [str(record.path) for key, record in self.records.items() if key not in known]

    def _find(self, task: Task) -> Record | None:
        return self.records.get(_key(task))


def _key(task: Task) -> tuple[str, int]:
    return identity(task.recipe), task.recipe.seed


if __name__ == "__main__":
    main()
