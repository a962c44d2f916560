"""Tune the methods of a study with the same number of random trials each, and keep every trial.

    python scripts/tune.py recipes/fashion-mnist results/fashion-mnist/trials.jsonl [METHOD ...]

Reads tuning.yaml and the recipes beside it. Trials that the file holds already are not run again. The first trial of a
method is its recipe as it stands; the others draw each setting at random, from a generator seeded by the method's name.
"""

from __future__ import annotations

import json
import random
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml

from pliant.training.experiment import load_run, train
from pliant.training.folder import RunFolder
from pliant.training.recipe import Recipe
from pliant.training.recipe_sweep import SweepSection
from pliant.training.sweeping import sweep_run


def settings(method: str, space: dict[str, list[Any]], trials: int) -> list[dict[str, Any]]:
    """Return the overrides of every trial, all different."""
    draw = random.Random(method)  # noqa: S311  (no secrets here)
    found: list[dict[str, Any]] = [{}]
    while len(found) < trials:
        choice = {key: draw.choice(values) for key, values in space.items()}
        if choice not in found:
            found.append(choice)
    return found


def run(recipe: Recipe, judge: dict[str, list[float]]) -> dict[str, Any]:
    """Train, cut, and return the scores of one trial."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = RunFolder(Path(scratch) / "run")
        train(recipe, folder)
        trained = load_run(folder)
        rows = []
        for name, fractions in judge.items():
            section = SweepSection(compressors=[name], fractions=fractions, calibrate=1024)
            rows += [(name, row.fraction, row.raw, row.recalibrated) for row in sweep_run(trained, section)]
    score = sum(row[3] for row in rows) / len(rows)
    return {"score": score, "dense": rows[0][2], "rows": rows}


def main() -> None:
    """Run all trials that are missing."""
    recipes, out, *only = Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:]
    study = yaml.safe_load((recipes / "tuning.yaml").read_text())
    out.parent.mkdir(parents=True, exist_ok=True)
    done = [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []
    known = [(row["method"], row["overrides"]) for row in done]
    for method in only or study["methods"]:
        part = study["methods"][method]
        for number, overrides in enumerate(settings(method, part["space"], study["trials"])):
            if (method, overrides) in known:
                continue
            given = [f"{key}={value}" for key, value in overrides.items()] + [f"data.holdout={study['holdout']}"]
            result = run(Recipe.from_yaml(recipes / f"{method}.yaml", given), part["judge"])
            row = {"method": method, "trial": number, "overrides": overrides, **result}
            with out.open("a") as file:
                file.write(json.dumps(row) + "\n")
            scores = f"score {100 * result['score']:.2f} dense {100 * result['dense']:.2f}"
            print(method, number, scores, overrides, flush=True)


if __name__ == "__main__":
    main()
