"""Tables and pictures of a study, written side by side into a folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from pliant import atomic
from pliant.report.archive import write_records
from pliant.report.plots import MACS, PARAMETERS, REMOVED, draw
from pliant.report.study import Entry
from pliant.report.tables import Table, dense_table, run_tables, study_tables

_WIDE = 400


def publish_run(folder: Path, entry: Entry) -> list[Table]:
    """Write table.txt, table.md and plot.png of one swept run, and return the tables."""
    tables = run_tables(entry.curves())
    _write_tables(folder, tables)
    draw(folder / "plot.png", entry.curves(), title=entry.label, axes=(REMOVED, PARAMETERS, MACS))
    return tables


def publish_study(folder: Path, entries: Sequence[Entry], *, title: str) -> list[Table]:
    """Write tables, pictures against fraction, parameters and MACs, and the rows behind them; return the tables."""
    folder.mkdir(parents=True, exist_ok=True)
    tables = [dense_table(entries), *study_tables(entries)]
    _write_tables(folder, tables)
    write_records(folder, entries)
    curves = [curve for entry in entries for curve in entry.curves()]
    for name, axis in (("removed", REMOVED), ("parameters", PARAMETERS), ("macs", MACS)):
        draw(folder / f"{name}.png", curves, title=title, axes=(axis,))
    return tables


def _write_tables(folder: Path, tables: Sequence[Table]) -> None:
    atomic.write_text(folder / "table.md", "\n".join(table.to_markdown() for table in tables))
    console = Console(width=_WIDE, color_system=None, force_terminal=False)
    with console.capture() as capture:
        for table in tables:
            console.print(table.to_rich())
    atomic.write_text(folder / "table.txt", "".join(f"{line.rstrip()}\n" for line in capture.get().splitlines()))
