"""pliant report: runs side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from pliant.cli.console import console
from pliant.cli.errors import user_errors
from pliant.report.gaps import gaps
from pliant.report.study import read_record, study
from pliant.report.tables import brief, dense_table, study_tables
from pliant.suggestion import command
from pliant.training.folder import RunFolderError


@user_errors
def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders of finished runs.")],
    *,
    output: Annotated[Path, typer.Option("-o", "--output", metavar="FOLDER", help="Where tables and plots go.")],
    title: Annotated[str, typer.Option(metavar="TEXT", help="Of the plots.")] = "Accuracy of cut models",
    compressor: Annotated[
        list[str] | None,
        typer.Option("-c", "--compressor", metavar="NAME", help="Only these, as tables name them; all by default."),
    ] = None,
) -> None:
    """Put swept runs side by side: tables, and plots against the fraction removed, parameters and MACs.

    Runs that differ in nothing but their seed are one method: its mean is drawn, and its range as a band. A run that
    lacks cuts of the others, or was repaired with other numbers of images, is named.

    For example:

      pliant report runs/sgd-0 runs/sgd-1 runs/filters-0 runs/filters-1 -o comparison
    """
    from pliant.report.publish import publish_study  # noqa: PLC0415  (matplotlib takes a second to import)

    records = [read_record(path) for path in runs]
    bare = [str(record.path) for record in records if not record.sweep]
    if bare:
        raise RunFolderError(f"nothing is swept yet in {', '.join(bare)}; run: {command('sweep', bare[0])}")
    out = console()
    entries = study([record.only(compressor) for record in records] if compressor else records)
    publish_study(output, entries, title=title)
    for gap in gaps(entries):
        out.print(f"[bold]Warning:[/] {escape(gap)}")
    for table in [dense_table(entries), *study_tables(entries, brief(entries))]:
        out.print(table.to_rich())
    out.print(f"Written: {output}/table.txt, table.md, removed.png, parameters.png, macs.png")
