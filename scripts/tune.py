"""Tune the methods of a study with the same number of random trials each, and keep every trial.

    python scripts/tune.py recipes/fashion-mnist/tuning.yaml results/fashion-mnist/trials.jsonl [METHOD ...]

Reads the study and the recipes beside it. Trials that the file holds already are not run again. The first trials of a
method are the study's leads (its recipe as it stands, if it names none); the others draw each setting at random, from a
generator seeded by the method's name and the study's round.
"""

from __future__ import annotations

import json
import random
import sys
import tempfile
from pathlib import Path
from statistics import mean
from typing import Any

import yaml

from pliant.training.experiment import load_run, train
from pliant.training.folder import RunFolder
from pliant.training.recipe import Recipe
from pliant.training.recipe_sweep import SweepSection
from pliant.training.sweeping import sweep_run


def settings(seed: str, part: dict[str, Any], trials: int) -> list[dict[str, Any]]:
    """Return the overrides of every trial, all different."""
    draw = random.Random(seed)  # noqa: S311  (no secrets here)
    space: dict[str, list[Any]] = part["space"]
    found: list[dict[str, Any]] = list(part.get("leads", [{}]))
    while len(found) < trials:
        choice = {key: draw.choice(values) for key, values in space.items()}
        if choice not in found:
            found.append(choice)
    return found


def run(recipe: Recipe, judge: dict[str, list[float]]) -> list[tuple[str, float, float, float]]:
    """Train and cut; return compressor, fraction, accuracy straight after the cut and after recalibration."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = RunFolder(Path(scratch) / "run")
        train(recipe, folder)
        trained = load_run(folder)
        rows = []
        for name, fractions in judge.items():
            section = SweepSection(compressors=[name], fractions=fractions, calibrate=1024)
            rows += [(name, row.fraction, row.raw, row.recalibrated) for row in sweep_run(trained, section)]
    return rows


def trial(recipe: Path, overrides: list[str], seeds: list[int], judge: dict[str, list[float]]) -> dict[str, Any]:
    """Return score, dense accuracy and rows of one setting, means over the seeds."""
    runs = [run(Recipe.from_yaml(recipe, [*overrides, f"seed={seed}"]), judge) for seed in seeds]
    rows = [(*cells[0][:2], *(mean(cell[i] for cell in cells) for i in (2, 3))) for cells in zip(*runs, strict=True)]
    return {"score": mean(row[3] for row in rows), "dense": rows[0][2], "seeds": seeds, "rows": rows}


def main() -> None:
    """Run all trials that are missing."""
    file, out, *only = Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:]
    study = yaml.safe_load(file.read_text())
    out.parent.mkdir(parents=True, exist_ok=True)
    done = [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []
    known = [(row["method"], row["overrides"]) for row in done]
    for method in only or study["methods"]:
        part = study["methods"][method]
        seed = method + study.get("round", "")
        for number, overrides in enumerate(settings(seed, part, study["trials"])):
            if (method, overrides) in known:
                continue
            given = [f"{key}={value}" for key, value in overrides.items()] + [f"data.holdout={study['holdout']}"]
            recipe = Path(study.get("recipes", file.parent)) / f"{method}.yaml"
            result = trial(recipe, given, study.get("seeds", [0]), part["judge"])
            row = {
                "method": method,
                "round": study.get("round", "1"),
                "trial": number,
                "overrides": overrides,
                **result,
            }
            with out.open("a") as rows:
                rows.write(json.dumps(row) + "\n")
            scores = f"score {100 * result['score']:.2f} dense {100 * result['dense']:.2f}"
            print(method, number, scores, overrides, flush=True)


if __name__ == "__main__":
    main()
