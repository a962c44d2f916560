"""pliant tune: the same number of trials for every method of a study."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from pliant.cli.console import console, suggested
from pliant.cli.errors import INTERRUPTED, user_errors
from pliant.cli.options import DataRootOption
from pliant.report.rows import TrialRow, read_rows
from pliant.report.trials import best_of, trial_line, trials_table
from pliant.training.interrupt import stop_on_interrupt
from pliant.training.tuning.task import Task, tasks_of


@user_errors
def tune(
    file: Annotated[Path, typer.Argument(metavar="FILE.yaml", help="A recipe with a tune section, or a study file.")],
    methods: Annotated[
        list[str] | None, typer.Argument(metavar="[METHOD]...", help="Of the study; all if none.")
    ] = None,
    *,
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="FILE", help="Where the trials are, and are added, a row each.")
    ] = Path("trials.jsonl"),
    override: Annotated[
        list[str] | None, typer.Option("--override", metavar="KEY=VALUE", help="Change all recipes: train.epochs=2")
    ] = None,
    data_root: DataRootOption = None,
) -> None:
    """Search a recipe's declared space, or those of all methods of a study with the same number of trials each.

    Every trial is trained on a part of the training set and judged on the rest, cut: the test set is never
    looked at. Trials that the file holds already are not run again, so that a search can be interrupted
    (Ctrl-C) and repeated; all trials are kept, the bad ones too. Trials of another recipe or judge are refused.

    For example:

      pliant tune recipe.yaml -o trials.jsonl

      pliant tune recipes/fashion-mnist/tuning.yaml filters low-rank -o results/fashion-mnist/trials.jsonl
    """
    from pliant.training.tuning.tune import tune as run_trials  # noqa: PLC0415

    out = console()
    given = [*(override or []), *([] if data_root is None else [f"data.root={data_root}"])]
    tasks = tasks_of(file, methods or [], given)
    with stop_on_interrupt() as stop:
        for row in run_trials(tasks, output, stop=stop):
            out.print(trial_line(row), highlight=False)
    _summary(out, tasks, output)


def _summary(out: Console, tasks: list[Task], file: Path) -> None:
    rows = read_rows(file, TrialRow)
    found = {task.method: [r for r in rows if (r.method, r.round) == (task.method, task.round)] for task in tasks}
    claims = {task.method: task.load().method.claim() for task in tasks}
    out.print(trials_table(found, claims).to_rich())
    if any(len(found[task.method]) < task.effort.trials for task in tasks):
        out.print("[yellow]Interrupted.[/] The same command goes on.")
        raise typer.Exit(INTERRUPTED)
    for task in tasks:
        best = best_of(found[task.method])
        out.print(f"Best of {task.method}: {_training(task, best)}", highlight=False, soft_wrap=True)


def _training(task: Task, best: TrialRow | None) -> str:
    if best is None:
        return "none, all trials diverged; lower the learning rates of the space"
    options = [word for text in task.setting(best) for word in ("-o", text)]
    return suggested("train", task.recipe, *options)
