"""Study: runs side by side, those that differ in their seed alone taken together."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pliant.methods.claim import Claim
from pliant.report.curves import Curve, Spread, curves_of
from pliant.report.rows import MetricsRow, SweepRow, read_rows
from pliant.training.folder import RunFolder, RunFolderError, RunInfo
from pliant.training.recipe import SEED, Recipe


@dataclass(frozen=True)
class Record:
    """What a run left behind.

    Args:
        path: where it was found.
        info: seed, versions, machine, times.
        recipe: of the run.
        metrics: a row an epoch.
        sweep: a row a cut.
    """

    path: Path
    info: RunInfo
    recipe: Recipe
    metrics: tuple[MetricsRow, ...]
    sweep: tuple[SweepRow, ...]

    def only(self, compressors: Sequence[str]) -> Record:
        """Return the record with the cuts of these compressors.

        Raises:
            RunFolderError: one of them was not swept.
        """
        swept = {row.compressor: None for row in self.sweep}
        for name in compressors:
            if name not in swept:
                raise RunFolderError(f"{self.path} was not swept by {name!r}, only by {', '.join(swept)}")
        return replace(self, sweep=tuple(row for row in self.sweep if row.compressor in compressors))


@dataclass(frozen=True)
class Entry:
    """A method: the runs of one recipe over all of its seeds."""

    label: str
    records: tuple[Record, ...]

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds, ascending."""
        return tuple(sorted(record.recipe.seed for record in self.records))

    @property
    def dense(self) -> Spread:
        """Accuracy of the trained, uncut models."""
        return Spread.of([record.metrics[-1].eval_accuracy for record in self.records])

    @property
    def seconds(self) -> Spread:
        """Training time."""
        return Spread.of([record.info.seconds for record in self.records])

    @property
    def claim(self) -> Claim:
        """What one run of the method is good for."""
        return self.records[0].recipe.method.claim()

    @property
    def gradients(self) -> Spread | None:
        """Gradients of a batch that a run computed; None where a run of an older version did not count them."""
        counts = [record.metrics[-1].evaluations for record in self.records]
        known = [count for count in counts if count is not None]
        return Spread.of(known) if len(known) == len(counts) else None

    def curves(self) -> list[Curve]:
        """A curve for every compressor that was swept."""
        return curves_of(self.label, [record.sweep for record in self.records], self.dense)


def read_record(path: Path) -> Record:
    """Read a finished run.

    Raises:
        RunFolderError: there is none in the folder, or it is not finished.
    """
    folder = RunFolder(path)
    info = folder.read_finished()
    metrics, sweep = read_rows(folder.metrics, MetricsRow), read_rows(folder.sweep, SweepRow)
    if not metrics:
        raise RunFolderError(f"{path} is finished, but {folder.metrics.name} holds no row")
    return Record(path, info, Recipe.from_yaml(folder.recipe), tuple(metrics), tuple(sweep))


def study(records: Sequence[Record]) -> list[Entry]:
    """Group runs into methods, in the order given: runs of one method differ in seed and name alone.

    Where and on how many threads a run was computed, and what was swept, does not make it another method.

    Raises:
        RunFolderError: two runs of a method have the same seed.
    """
    groups: dict[str, list[Record]] = {}
    for record in records:
        groups.setdefault(identity(record.recipe), []).append(record)
    labels = _distinct([_label(group) for group in groups.values()])
    entries = [Entry(label, tuple(group)) for label, group in zip(labels, groups.values(), strict=True)]
    for entry in entries:
        if len(set(entry.seeds)) < len(entry.seeds):
            paths = ", ".join(str(record.path) for record in entry.records)
            raise RunFolderError(f"runs of one method need seeds of their own, found {list(entry.seeds)} in {paths}")
    return entries


def identity(recipe: Recipe) -> str:
    """Return what runs of one method have in common, as text."""
    return json.dumps(recipe.identity(), sort_keys=True)


def _label(group: Sequence[Record]) -> str:
    """Return the name that the runs of a method share, without their seeds; the folder says which study it is."""
    recipes = [record.recipe for record in group]
    shared = _shared([_stem(recipe) for recipe in recipes]) or _shared([_without_seed(recipe) for recipe in recipes])
    return (shared or recipes[0].run_name).rpartition("/")[2]


def _shared(names: Sequence[str]) -> str | None:
    """Return what all names are, if they are one."""
    return names[0] if len(set(names)) == 1 else None


def _stem(recipe: Recipe) -> str:
    """Return the name of a recipe without the place of its seed; a literal name as it is written."""
    return _PLACE.sub("", recipe.name).strip(_JOINTS) if SEED in recipe.name else recipe.name


def _without_seed(recipe: Recipe) -> str:
    """Return the name without the seed that is written at its end, if one is."""
    return re.sub(rf"(?<=.){_JOINT}{recipe.seed}$", "", _stem(recipe))


_JOINTS = "-_/. "
_JOINT = rf"(?:(?:^|[{_JOINTS}])seed[-_=]?|[{_JOINTS}])"  # between a name and its seed
_PLACE = re.compile(rf"{_JOINT}?{re.escape(SEED)}")


def _distinct(labels: Sequence[str]) -> list[str]:
    seen: dict[str, int] = {}
    result = []
    for label in labels:
        seen[label] = seen.get(label, 0) + 1
        result.append(label if seen[label] == 1 else f"{label} ({seen[label]})")
    return result
