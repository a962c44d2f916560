"""Which score should choose filters? One row per run, score and fraction, on runs that are trained already.

python scripts/filter_scores.py results/fashion-mnist/scores.md RUN [RUN ...]
"""

from __future__ import annotations

import sys
from pathlib import Path

from pliant.training.experiment import load_run
from pliant.training.folder import RunFolder
from pliant.training.recipe_sweep import FilterSpec, SweepSection
from pliant.training.sweeping import sweep_run

FRACTIONS = [0.3, 0.5, 0.7]


def main() -> None:
    """Sweep every run with every score and write the table; the rows in the runs' folders grow as well."""
    out, *runs = map(Path, sys.argv[1:])
    lines = ["| run | score | 30 % | 50 % | 70 % |", "|---|---|---|---|---|"]
    for path in runs:
        run = load_run(RunFolder(path))
        for score in ("l1", "l2", "group", "folded"):
            spec = FilterSpec(type="filters", score=score)
            section = SweepSection(compressors=[spec], fractions=FRACTIONS, calibrate=1024)
            cells = [f"{100 * row.raw:.1f} → {100 * (row.recalibrated or 0.0):.1f}" for row in sweep_run(run, section)]
            lines.append(f"| {path.name} | {score} | {' | '.join(cells)} |")
            print(lines[-1], flush=True)
    out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
