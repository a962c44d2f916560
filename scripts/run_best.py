r"""Train and sweep the best setting of every method of a study, with three seeds each.

    pliant tune recipes/fashion-mnist/methods/tuning.yaml -o results/fashion-mnist/methods/trials.jsonl
    python scripts/run_best.py recipes/fashion-mnist/methods/tuning.yaml results/fashion-mnist/methods/trials.jsonl \
        -o "sweep.fractions=[0, 0.3, 0.5, 0.6, 0.7, 0.8, 0.9]"

Methods that have not had all of their trials are left out. Finished runs are not run again, so that both commands can
be interrupted and repeated.
"""

import argparse
from pathlib import Path

import suite

from pliant.report.rows import TrialRow, read_rows
from pliant.report.trials import best_of
from pliant.training.folder import RunFolder
from pliant.training.recipe import Recipe
from pliant.training.tuning.task import Task, tasks_of
from pliant.training.tuning.tune import trials_of


def main(arguments: list[str] | None = None) -> None:
    """Run what is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("study", type=Path)
    parser.add_argument("trials", type=Path)
    parser.add_argument("methods", nargs="*", help="all if none")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("-o", "--override", action="append", default=[], help="of all recipes, as in pliant train")
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    options = parser.parse_args(arguments)
    rows = read_rows(options.trials, TrialRow)
    for task in tasks_of(options.study, options.methods):
        best = chosen(task, rows)
        if best is None:
            continue
        for seed in range(options.seeds):
            recipe = Recipe.from_yaml(task.recipe, [*best, *options.override, f"seed={seed}", "tune=null"])
            folder = RunFolder(options.runs / recipe.run_name)
            suite.perform(suite.Task(task.method, recipe, folder, suite.size_of(recipe)))


def chosen(task: Task, rows: list[TrialRow]) -> list[str] | None:
    """Return the overrides of the best trial; None while some are missing, or where all of them diverged."""
    own = trials_of(task, rows)
    best = best_of(own)
    if len(own) < task.effort.trials or best is None:
        scored = sum(row.score is not None for row in own)
        print(f"{task.method}: {len(own)} of {task.effort.trials} trials, {scored} of them with a score: left out")
        return None
    return task.setting(best)


if __name__ == "__main__":
    main()
