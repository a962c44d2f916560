"""Draw the relative distance of a model to its pruned version over training, one line per k.

    python scripts/plot_k_distance.py runs/k-distance results/k-distance

Reads the metrics of runs named k<k>-<seed>; writes rows.jsonl, table.md and distance.png.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from pliant.report.curves import Spread
from pliant.report.study import Record, read_record
from pliant.training.methods import SFWMethod


def k_of(record: Record) -> float:
    """Return k of a run."""
    method = record.recipe.method
    if not isinstance(method, SFWMethod):
        raise ValueError(f"{record.path} is not a run of SFW")
    return float(method.k)


def distances(records: list[Record], epoch: int) -> Spread:
    """Return the distance after an epoch over the seeds."""
    return Spread.of([record.metrics[epoch].distance or 0.0 for record in records])


def draw(path: Path, by_k: dict[float, list[Record]]) -> None:
    """Draw one line per k, mean over the seeds, with the range as a band."""
    figure = Figure(figsize=(6.0, 4.0), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for k, records in by_k.items():
        epochs = range(len(records[0].metrics))
        spreads = [distances(records, epoch) for epoch in epochs]
        x = [epoch + 1 for epoch in epochs]
        (line,) = axes.plot(x, [100 * s.mean for s in spreads], label=f"k = {k:.0%}" + (" (l2 ball)" if k == 1 else ""))
        low, high = [100 * s.low for s in spreads], [100 * s.high for s in spreads]
        axes.fill_between(x, low, high, color=line.get_color(), alpha=0.2, linewidth=0)
    axes.set_xlabel("epoch")
    axes.set_ylabel("relative distance to the model pruned by 90 % (%)")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=130)


def main() -> None:
    """Read the runs, write rows, table and picture."""
    runs, out = Path(sys.argv[1]), Path(sys.argv[2])
    out.mkdir(parents=True, exist_ok=True)
    records = [read_record(path) for path in sorted(runs.iterdir())]
    by_k = {k: [r for r in records if k_of(r) == k] for k in sorted({k_of(r) for r in records})}
    with (out / "rows.jsonl").open("w") as file:
        for record in records:
            for row in record.metrics:
                line = {"k": k_of(record), "seed": record.recipe.seed, "epoch": row.epoch, "distance": row.distance}
                file.write(json.dumps(line | {"accuracy": row.eval_accuracy, "shrinkage": row.shrinkage}) + "\n")
    lines = ["| k | relative distance (%) | dense accuracy (%) | seeds |", "|---|---|---|---|"]
    for k, group in by_k.items():
        last, dense = distances(group, -1), Spread.of([record.metrics[-1].eval_accuracy for record in group])
        ends = f"{100 * last.mean:.1f} ({100 * last.low:.1f} to {100 * last.high:.1f})"
        lines.append(f"| {k:.0%} | {ends} | {100 * dense.mean:.1f} | {len(group)} |")
    (out / "table.md").write_text("\n".join(lines) + "\n")
    draw(out / "distance.png", by_k)


if __name__ == "__main__":
    main()
