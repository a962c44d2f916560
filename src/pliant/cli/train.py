"""pliant train: a recipe becomes a run folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from pliant.cli.console import console, suggested
from pliant.cli.errors import INTERRUPTED, user_errors
from pliant.cli.options import DataRootOption
from pliant.cli.progress import watch_on
from pliant.distributed import joined
from pliant.report.rows import MetricsRow, read_rows
from pliant.training import experiment
from pliant.training.build import device_of
from pliant.training.folder import RunFolder
from pliant.training.interrupt import stop_on_interrupt
from pliant.training.presets import PRESETS
from pliant.training.recipe import Recipe
from pliant.training.recipe_file import RecipeError

RunsOption = Annotated[Path, typer.Option("--runs", metavar="FOLDER", help="Where run folders are.")]


@user_errors
def train(
    recipe: Annotated[
        Path | None,
        typer.Argument(
            metavar="[RECIPE.yaml]", help="A recipe; with --resume, a run folder will do.", show_default=False
        ),
    ] = None,
    *,
    preset: Annotated[
        str | None,
        typer.Option(metavar="NAME", help=f"The method, for a recipe that says none: {', '.join(PRESETS)}."),
    ] = None,
    override: Annotated[
        list[str] | None,
        typer.Option("-o", "--override", metavar="KEY=VALUE", help="Change the recipe: -o train.epochs=5"),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an interrupted run.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a run of this name.")] = False,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Write events for TensorBoard.")] = False,
    data_root: DataRootOption = None,
    runs: RunsOption = Path("runs"),
) -> None:
    """Train by a recipe into a new run folder, runs/NAME.

    Ctrl-C finishes the step under way and saves; --resume goes on from there and ends with the very weights
    that an uninterrupted run has (bit for bit on a CPU).

    For example:

      pliant train recipe.yaml

      pliant train recipe.yaml -o seed=1 -o name=again -o method.step.total=2.5

      pliant train --preset filters -o data.name=fashion-mnist -o model.name=resnet-20

      pliant train runs/again --resume
    """
    out = console()
    if resume and overwrite:
        raise ValueError("--resume goes on with a run and --overwrite replaces it: give one of the two")
    if resume and data_root is not None:
        raise ValueError("--data-root would change the recipe of the run to resume; set PLIANT_DATA instead")
    overrides = [*(override or []), *([] if data_root is None else [f"data.root={data_root}"])]
    loaded, folder = _locate(recipe, preset, overrides, runs, resume=resume)
    watch = watch_on(out, tensorboard=folder.path / "tensorboard" if tensorboard else None)
    with stop_on_interrupt() as stop, joined(device_of(loaded.train.device)) as world:
        if resume:
            finished = experiment.resume(
                folder, recipe=loaded, watch=watch if world.is_main else None, stop=stop, world=world
            )
        else:
            finished = experiment.train(
                loaded, folder, overwrite=overwrite, watch=watch if world.is_main else None, stop=stop, world=world
            )
        if not world.is_main:
            if not finished:
                raise typer.Exit(INTERRUPTED)
            return
    if not finished:
        out.print(f"[yellow]Interrupted[/] and saved. Go on with: {suggested('train', folder.path, '--resume')}")
        raise typer.Exit(INTERRUPTED)
    _summary(out, folder, loaded)


def _locate(
    path: Path | None, preset: str | None, overrides: list[str], runs: Path, *, resume: bool
) -> tuple[Recipe, RunFolder]:
    if path is None and preset is None:
        raise RecipeError(f"give a recipe file, or --preset with one of {', '.join(PRESETS)}")
    if path is None or not path.is_dir():
        recipe = Recipe.from_yaml(path, overrides, preset=preset)
        return recipe, RunFolder(runs / recipe.run_name)
    if not resume:
        raise RecipeError(f"{path} is a folder: give a recipe file, or --resume to go on with the run in it")
    if preset is not None:
        raise RecipeError(f"the run in {path} has its method: leave --preset out")
    folder = RunFolder(path)
    return Recipe.from_yaml(folder.recipe, overrides), folder


def _summary(out: Console, folder: RunFolder, recipe: Recipe) -> None:
    last = read_rows(folder.metrics, MetricsRow)[-1]
    where = "held-out images" if recipe.data.holdout else "test images"
    extra = "" if last.kept is None else f", shrinkage {last.shrinkage:.2f} ({last.kept:.1%} of the first weights left)"
    out.print(f"[green]Done[/] in {last.seconds:.0f} s: {last.eval_accuracy:.2%} of the {where}{extra}. {folder.path}")
    out.print(f"Next: {suggested('sweep', folder.path)}")
