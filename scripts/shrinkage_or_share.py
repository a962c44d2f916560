"""Is it the shrinkage S, or the share of the initial weights that is left, that makes a model compressible?

    python scripts/shrinkage_or_share.py results/shrinkage

On the digits, SFW for filters with several S, from the usual initial weights and from weights scaled down by ten. If
the share of the initial weights were the cause, scaling them down would do what a larger S does. Writes rows.jsonl and
table.md.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch.nn import functional as F

from pliant import SFW, Constraint, FilterPruning, Inputs, Plan, Shrinkage, TopK, sweep
from pliant.data import Batches, load
from pliant.metrics import accuracy
from pliant.models import create

EPOCHS, SEEDS = 30, (0, 1, 2)


def run(total: float, factor: float, seed: int) -> dict[str, Any]:
    """Train once and cut; return the row."""
    torch.manual_seed(seed)
    data = load("digits")
    statistics = {"mean": data.mean, "std": data.std}
    options = {"augment": data.augmentation, "shuffle": True, "drop_last": True, "seed": seed}
    train = Batches(data.train, batch_size=64, **options, **statistics)
    test = Batches(data.test, batch_size=497, **statistics)
    model = create("cnn-4", num_classes=10, in_channels=1, image_size=8, widths=[32, 64, 64, 64])
    plan = Plan.for_filters(model, k=0.3, norms=Constraint(TopK(0.1)))
    plan.scale_weights(factor)
    plan.make_feasible()
    steps = EPOCHS * len(train)
    optimizer = SFW(plan.param_groups(), lr=1.0, step_rule=Shrinkage(total, steps))
    free = [group["region"] is None for group in optimizer.param_groups]
    fall = [(lambda t: 1 - t / steps) if mine else (lambda _: 1.0) for mine in free]
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, fall)
    for epoch in range(EPOCHS):
        train.set_epoch(epoch)
        for x, y in train:
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
            schedule.step()
    rows = sweep(
        model,
        FilterPruning(),
        [0.0, 0.3, 0.5, 0.7],
        example=data.test.images[:1].float(),
        evaluate=lambda m: accuracy(m, test),
        calibrate=Inputs(Batches(data.train, batch_size=256, **statistics)),
    )
    accuracies = {str(row.fraction): [row.raw, row.recalibrated] for row in rows}
    share = factor * optimizer.kept_share()
    return {"S": total, "factor": factor, "seed": seed, "initial_share": share, "accuracy": accuracies}


def main() -> None:
    """Run all settings and write the rows and the table."""
    torch.set_num_threads(1)
    out = Path(sys.argv[1])
    out.mkdir(parents=True, exist_ok=True)
    lines = [
        "| S | initial weights times | their share at the end | dense | 30 % | 50 % | 70 % |",
        "|---|---|---|---|---|---|---|",
    ]
    with (out / "rows.jsonl").open("w") as file:
        for total, factor in [(0.3, 1.0), (0.3, 0.1), (1.0, 1.0), (1.0, 0.1), (3.0, 1.0), (3.0, 0.1)]:
            rows = [run(total, factor, seed) for seed in SEEDS]
            for row in rows:
                file.write(json.dumps(row) + "\n")
            cells = []
            for fraction in rows[0]["accuracy"]:
                raw, recalibrated = (100 * fmean(row["accuracy"][fraction][i] for row in rows) for i in (0, 1))
                cells.append(f"{raw:.1f}" if fraction == "0.0" else f"{raw:.1f} → {recalibrated:.1f}")
            lines.append(f"| {total} | {factor} | {rows[0]['initial_share']:.3f} | {' | '.join(cells)} |")
            print(lines[-1], flush=True)
    (out / "table.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
