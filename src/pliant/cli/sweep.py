"""pliant sweep: one trained model, many cuts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from pliant.cli.console import console, suggested
from pliant.cli.errors import user_errors
from pliant.cli.options import COMPRESSOR_NAMES, DataRootOption, fractions_of
from pliant.distributed import World, joined
from pliant.report.rows import SweepRow
from pliant.report.study import read_record, study
from pliant.training.experiment import load_run
from pliant.training.folder import RunFolder
from pliant.training.recipe_file import from_mapping
from pliant.training.recipe_sweep import SweepSection, is_decomposed, is_searched, scheme_of, short_name

RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a finished run.")]

ALONE = World()


@user_errors
def sweep(
    run: RunArgument,
    *,
    compressor: Annotated[
        list[str] | None,
        typer.Option(
            "--compressor",
            "-c",
            metavar="NAME",
            help=f"{COMPRESSOR_NAMES} More than one is fine.",
        ),
    ] = None,
    fractions: Annotated[
        str | None, typer.Option(metavar="LIST", help="Removed: 0:0.9:0.1 (both ends included), or 0.3,0.5,0.7")
    ] = None,
    macs: Annotated[
        str | None, typer.Option(metavar="LIST", help="Shares of the MACs to remove: 0.3,0.5,0.75; not unstructured.")
    ] = None,
    calibrate: Annotated[
        int | None, typer.Option(metavar="IMAGES", help="Training images for BatchNorm recalibration; 0: none.")
    ] = None,
    reconstruct: Annotated[
        int | None, typer.Option(metavar="IMAGES", help="Training images to fit the cut layers with; 0: no such rows.")
    ] = None,
    data_root: DataRootOption = None,
) -> None:
    """Cut one trained model at many ratios, without training: rows, a table and a plot in the run folder.

    What is not given here is as in the recipe's `sweep` section; --macs without --fractions cuts by MACs alone.
    The trained model itself stays as it is.

    For example:

      pliant sweep runs/fashion-filters

      pliant sweep runs/fashion-filters --compressor low-rank --fractions 0:0.9:0.1

      pliant sweep runs/fashion-filters --compressor filters --macs 0.3:0.8:0.1

      pliant sweep runs/fashion-filters --reconstruct 1024
    """
    given: dict[str, Any] = {"compressors": compressor or None, "calibrate": calibrate}
    given["reconstruct"] = reconstruct
    given["fractions"] = None if fractions is None else fractions_of(fractions)
    if macs is not None:
        given |= {"macs": fractions_of(macs), "fractions": given["fractions"] or []}
    with joined() as world:
        sweep_folder(
            console(), RunFolder(run), {name: v for name, v in given.items() if v is not None}, data_root, world
        )


def sweep_folder(
    out: Console,
    folder: RunFolder,
    given: Mapping[str, Any],
    data_root: Path | None,
    world: World = ALONE,
) -> None:
    """Sweep a run and write its table and plot; `given` replaces parts of the recipe's sweep section."""
    from pliant.report.publish import publish_run  # noqa: PLC0415  (matplotlib takes a second to import)
    from pliant.training.sweeping import sweep_run  # noqa: PLC0415

    loaded = load_run(folder, data_root)
    asked = loaded.recipe.sweep.model_dump() | dict(given)
    section = from_mapping(SweepSection, asked, source="the sweep")
    rows = sweep_run(loaded, section, world)
    if not world.is_main:
        for _ in rows:
            pass
        return
    show(out, rows)
    (entry,) = study([read_record(folder.path)])
    for table in publish_run(folder.path, entry):
        out.print(table.to_rich())
    out.print(f"Written: {folder.sweep}, table.txt, table.md, plot.png")
    best = section.compressors[0]
    name = short_name(best)
    if is_decomposed(best) and scheme_of(best) is None and any(map(scheme_of, loaded.recipe.sweep.compressors)):
        name = f"{name}:channel"  # the recipe means another one by the name alone
    how = ("--macs", "50%") if is_searched(best) else ("--fraction", 0.5)
    images = ("--reconstruct", section.reconstruct) if section.reconstruct else ()
    out.print(f"Next: {suggested('compress', folder.path, '--compressor', name, *how, *images, '-o', 'compressed')}")


def show(out: Console, rows: Iterable[SweepRow]) -> None:
    """Follow a sweep: one changing line in a terminal, a line a row elsewhere."""
    with out.status("cutting") as status:
        for row in rows:
            status.update(_line(row))
            if not out.is_terminal:
                out.print(_line(row))


def _line(row: SweepRow) -> str:
    after = "" if row.recalibrated is None else f", recalibrated {row.recalibrated:.2%}"
    fitted = "" if row.reconstructed is None else f", reconstructed {row.reconstructed:.2%}"
    return f"{row.compressor}, {row.removed:.1%} removed: raw {row.raw:.2%}{after}{fitted}"
