"""Archive: what the tables and pictures of a study were made of, so that it can be gone on with on another machine."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pliant import atomic
from pliant.report.rows import MetricsRow, R, RowError, SweepRow, row_of
from pliant.report.study import Entry, Record
from pliant.training.folder import RunInfo
from pliant.training.recipe import Recipe
from pliant.training.recipe_file import from_mapping

_ABOUT = ("started", "seconds", "versions", "machine")


def write_records(folder: Path, entries: Sequence[Entry]) -> None:
    """Write runs.jsonl and rows.jsonl."""
    runs, rows = [], []
    for entry in entries:
        for record in entry.records:
            whose = {"method": entry.label, "seed": record.recipe.seed}
            info = asdict(record.info)
            about = {name: info[name] for name in _ABOUT} | {"class": str(record.recipe.method.claim())}
            metrics = [asdict(row) for row in record.metrics]
            runs.append(whose | about | {"recipe": record.recipe.model_dump(exclude_none=True), "metrics": metrics})
            rows += [whose | asdict(row) for row in record.sweep]
    for name, lines in ((_RUNS, runs), (_ROWS, rows)):
        atomic.write_text(folder / name, "".join(f"{json.dumps(line)}\n" for line in lines))


_RUNS, _ROWS = "runs.jsonl", "rows.jsonl"


def read_records(folder: Path) -> list[Record]:
    """Return the runs of a study that was written into a folder, in that order; none if there is no such study.

    Raises:
        RecipeError: a run's recipe is not valid in this version.
        RowError: a line cannot be read; the message says which.
    """
    rows: dict[tuple[str, int], list[SweepRow]] = {}
    for where, line in _lines(folder / _ROWS):
        rows.setdefault(_whose(where, line), []).append(_checked(where, line, SweepRow))
    return [_record(folder, where, line, rows) for where, line in _lines(folder / _RUNS)]


def _record(
    folder: Path, where: str, line: dict[str, Any], rows: Mapping[tuple[str, int], Sequence[SweepRow]]
) -> Record:
    method, seed = whose = _whose(where, line)
    missing = [name for name in (*_ABOUT, "recipe", "metrics") if name not in line]
    if missing:
        raise RowError(f"{where} is no run: {', '.join(missing)} missing")
    return Record(
        path=folder / f"{method}-{seed}",
        info=RunInfo(seed=seed, status="finished", **{name: line[name] for name in _ABOUT}),
        recipe=from_mapping(Recipe, line["recipe"], source=where),
        metrics=tuple(_checked(where, row, MetricsRow) for row in line["metrics"]),
        sweep=tuple(rows.get(whose, ())),
    )


def _lines(path: Path) -> list[tuple[str, dict[str, Any]]]:
    """Return the objects in a file, each with what to call it in a message."""
    found = []
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    for number, text in enumerate(lines, start=1):
        where = f"{path}, line {number}"
        try:
            line = json.loads(text)
        except ValueError as error:
            raise RowError(f"{where} is no JSON: {error}") from error
        found.append((where, line))
    return found


def _whose(where: str, line: dict[str, Any]) -> tuple[str, int]:
    try:
        return str(line["method"]), int(line["seed"])
    except (KeyError, TypeError, ValueError) as error:
        raise RowError(f"{where} must be an object with the method and the seed of a run") from error


def _checked(where: str, data: dict[str, Any], kind: type[R]) -> R:
    try:
        return row_of(data, kind)
    except ValueError as error:
        raise RowError(f"{where} is not a {kind.__name__}: {error}") from error
