"""Draw how the stationarity residual of block coordinate descent falls: its mean square, and k times that.

    python -m benchmarks.bcd_residual -o results/bcd [--sweeps 300] [--quick]

Writes residual.json and residual.png. The theorem bounds k times the mean of the first k squared residuals: the right
panel levels off.

Reference: Zeng, Lau, Lin, Yao, Global Convergence of Block Coordinate Descent in Deep Learning (2019), theorem 1.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import nn

from pliant.bcd import BlockCoordinateDescent
from pliant.sets import EqualRanks, SparseSet, TensorTrainSet, WeightSet

SETS: dict[str, WeightSet] = {"a tenth of the weights": SparseSet(0.1), "tensor trains": TensorTrainSet(EqualRanks(16))}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder of the results")
    parser.add_argument("--sweeps", type=int, default=300)
    parser.add_argument("--quick", action="store_true", help="narrow layers and few samples")
    options = parser.parse_args(arguments)
    options.output.mkdir(parents=True, exist_ok=True)
    found = {name: squares(one, options.sweeps, 32 if options.quick else 256) for name, one in SETS.items()}
    (options.output / "residual.json").write_text(json.dumps(found, indent=1) + "\n")
    draw(options.output / "residual.png", found)


def squares(weight_set: WeightSet, sweeps: int, width: int) -> list[float]:
    """Return the squared residual after each sweep, of a network of two hidden layers on separable data."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(100, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 6)
    ).double()
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(8 * width, 100, generator=generator, dtype=torch.float64)
    y = (x @ torch.randn(100, 6, generator=generator, dtype=torch.float64)).argmax(1)
    bcd = BlockCoordinateDescent(model, {"0": weight_set, "2": weight_set})
    found = []
    for _ in range(sweeps):
        bcd.sweep(x, y)
        found.append(bcd.residual() ** 2)
    return found


def draw(path: Path, found: Mapping[str, Sequence[float]]) -> None:
    """Draw the squares and k times their mean into a PNG file."""
    figure = Figure(figsize=(7.8, 3.0), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    for name, values in found.items():
        sweeps = range(1, len(values) + 1)
        left.loglog(sweeps, values, label=name)
        right.semilogx(sweeps, torch.tensor(values, dtype=torch.float64).cumsum(0).tolist(), label=name)
    left.set(xlabel="sweep k", ylabel="squared residual")
    right.set(xlabel="sweep k", ylabel="k x mean of the first k squares", ylim=(0.0, None))
    left.legend(frameon=False, fontsize="small")
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    main()
