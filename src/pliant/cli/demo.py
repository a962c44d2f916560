"""pliant demo: the whole idea on real images, in a minute or two."""

from __future__ import annotations

from importlib.resources import as_file, files
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from pliant.cli.console import console, suggested
from pliant.cli.errors import INTERRUPTED, user_errors
from pliant.cli.progress import watch_on
from pliant.cli.sweep import show
from pliant.report.study import Entry, read_record, study
from pliant.report.tables import dense_table, study_tables
from pliant.training.experiment import load_run, train
from pliant.training.folder import RunFolder
from pliant.training.interrupt import stop_on_interrupt
from pliant.training.recipe import Recipe

RECIPES = ("demo-sgd", "demo-filters", "demo-low-rank")
TITLE = "One checkpoint each, cut without retraining (digits)"
_SHOWN = (0.3, 0.5, 0.7)


@user_errors
def demo(
    seeds: Annotated[str, typer.Option(metavar="LIST", help="Seeds: 0 or 0,1,2")] = "0",
    output: Annotated[Path, typer.Option("-o", "--output", metavar="FOLDER", help="Where everything goes.")] = Path(
        "demo"
    ),
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier demo.")] = False,
) -> None:
    """Train three ways at one budget on handwritten digits, cut each model at many ratios, draw the curves.

    Plain SGD, Stochastic Frank-Wolfe made for filter pruning, and the same made for low rank.

    For example:

      pliant demo

      pliant demo --seeds 0,1,2 -o demo-three-seeds
    """
    out = console()
    runs = [(recipe, RunFolder(output / recipe.run_name)) for recipe in _recipes(_seeds_of(seeds))]
    for _, folder in runs:
        _check_free(folder, overwrite=overwrite)
    for recipe, folder in runs:
        if not _train_and_sweep(out, recipe, folder, overwrite=overwrite):
            again = suggested("demo", "--seeds", seeds, "-o", output, "--overwrite")
            out.print(f"[yellow]Interrupted.[/] Start again with: {again}")
            raise typer.Exit(INTERRUPTED)
    entries = study([read_record(folder.path) for _, folder in runs])
    _publish(out, output, entries)
    out.print(f"The picture: [bold]{output / 'demo.png'}[/]")
    out.print("Next: cut one of them for good, or look at a recipe and change it:")
    chosen = runs[1][1].path
    out.print(f"  {suggested('compress', chosen, '--compressor', 'filters', '--fraction', 0.5, '-o', 'small')}")
    out.print(f"  {suggested('train', chosen / 'recipe.yaml', '-o', 'name=mine', '-o', 'method.k=0.2')}")


def _recipes(seeds: list[int]) -> list[Recipe]:
    recipes = []
    for seed in seeds:
        for name in RECIPES:
            with as_file(files("pliant") / "recipes" / f"{name}.yaml") as path:
                recipes.append(Recipe.from_yaml(path, [f"seed={seed}"]))
    return recipes


def _seeds_of(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(f"seeds must look like 0 or 0,1,2, found {text!r}") from None


def _check_free(folder: RunFolder, *, overwrite: bool) -> None:
    if folder.exists() and not overwrite:
        raise FileExistsError(f"{folder.path} is there already; --overwrite replaces it, -o FOLDER goes elsewhere")


def _train_and_sweep(out: Console, recipe: Recipe, folder: RunFolder, *, overwrite: bool) -> bool:
    from pliant.training.sweeping import sweep_run  # noqa: PLC0415

    out.print(f"[bold]{recipe.run_name}[/]: {recipe.train.epochs} epochs on {recipe.data.name}")
    with stop_on_interrupt() as stop:
        finished = train(recipe, folder, overwrite=overwrite, watch=watch_on(out), stop=stop)
    if finished:
        show(out, sweep_run(load_run(folder), recipe.sweep))
    return finished


def _publish(out: Console, output: Path, entries: list[Entry]) -> None:
    from pliant import atomic  # noqa: PLC0415
    from pliant.report.plots import draw  # noqa: PLC0415  (matplotlib takes a second to import)

    tables = [dense_table(entries), *study_tables(entries, _SHOWN)]
    draw(output / "demo.png", [curve for entry in entries for curve in entry.curves()], title=TITLE)
    atomic.write_text(output / "table.md", "\n".join(table.to_markdown() for table in tables))
    for table in tables:
        out.print(table.to_rich())
