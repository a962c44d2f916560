"""Cut runs at energies of the singular values: parameters removed, accuracy before and after.

python scripts/energies.py results/fashion-mnist/energies RUN [RUN ...]

Every layer keeps the fewest singular values that hold a share of their sum (Alvarez and Salzmann's rule), or of the sum
of their squares, and is replaced by two layers where that pays. Writes rows.jsonl and table.md: the mean over runs that
differ in nothing but their seed.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean

from pliant import atomic
from pliant.compress import Energy, LowRank, SquaredEnergy, compress, recalibrate_batchnorm
from pliant.training.build import judge
from pliant.training.experiment import Run, load_run
from pliant.training.folder import RunFolder

Rule = Energy | SquaredEnergy
RULES: Mapping[str, Callable[[float], Rule]] = {"energy": Energy, "squared energy": SquaredEnergy}
LEVELS = (1.0, 0.9, 0.8)
IMAGES = 1024  # of the training set, for recalibration


@dataclass(frozen=True)
class Row:
    """A run that was cut at an energy. Accuracies are those of the network that is physically smaller."""

    method: str
    seed: int
    rule: str
    level: float
    before: float
    raw: float
    recalibrated: float
    parameters: int
    dense_parameters: int
    ranks: float


def main() -> None:
    """Cut all runs and write rows and table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("output", type=Path)
    parser.add_argument("runs", type=Path, nargs="+")
    options = parser.parse_args()
    rows = []
    for path in options.runs:
        for row in cut(load_run(RunFolder(path))):
            rows.append(row)
            print(row, flush=True)
    options.output.mkdir(parents=True, exist_ok=True)
    atomic.write_text(options.output / "rows.jsonl", "".join(json.dumps(asdict(row)) + "\n" for row in rows))
    atomic.write_text(options.output / "table.md", "\n".join(table(rows)) + "\n")


def cut(run: Run) -> Iterator[Row]:
    """Yield a row for every rule and level."""
    before = judge(run.recipe, run.data, run.model)
    for name, rule in RULES.items():
        for level in LEVELS:
            yield row(run, before, name, rule(level))


def row(run: Run, before: float, name: str, rule: Rule) -> Row:
    """Cut a run by a rule."""
    images = run.data.calibration(IMAGES, run.recipe.data, run.recipe.seed)
    found = compress(run.model, LowRank(rule=rule), example=run.data.example())
    report = found.report
    return Row(
        method=run.recipe.name.rpartition("/")[2].removesuffix("-{seed}"),
        seed=run.recipe.seed,
        rule=name,
        level=rule.level or 1.0,
        before=before,
        raw=judge(run.recipe, run.data, found.model),
        recalibrated=judge(run.recipe, run.data, recalibrate_batchnorm(found.model, images)),
        parameters=report.after.parameters,
        dense_parameters=report.before.parameters,
        ranks=report.removed / report.atoms,
    )


def table(rows: Sequence[Row]) -> Iterator[str]:
    """Yield the lines of a table: means over the seeds, and half the range of the accuracies."""
    yield "| method | keeps | singular values removed | parameters removed | before | raw | recalibrated | seeds |"
    yield "|---|---|---|---|---|---|---|---|"
    for method, rule, level in dict.fromkeys((row.method, row.rule, row.level) for row in rows):
        mine = [row for row in rows if (row.method, row.rule, row.level) == (method, rule, level)]
        removed = fmean(1 - row.parameters / row.dense_parameters for row in mine)
        cells = " | ".join(spread([getattr(row, key) for row in mine]) for key in ("before", "raw", "recalibrated"))
        ranks = fmean(row.ranks for row in mine)
        yield f"| {method} | {level:.0%} of the {rule} | {ranks:.1%} | {removed:.1%} | {cells} | {len(mine)} |"


def spread(values: Sequence[float]) -> str:
    """Return mean and half the range, in percent."""
    return f"{100 * fmean(values):.1f} ±{50 * (max(values) - min(values)):.1f}"


if __name__ == "__main__":
    main()
