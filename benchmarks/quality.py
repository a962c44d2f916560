"""How much of the optimum the oracle reaches in every step of a real training run, judged by an exact one beside it.

cnn-4 on Fashion-MNIST (on the digits where those images are not installed), spectral-k-support balls with k = 10 % of
the rank, on one thread. The vertex is read off the weights' own movement, theta' = (1 - alpha) theta + alpha v, so what
is judged is what the optimizer did.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count, islice
from pathlib import Path
from statistics import fmean, quantiles

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks import tables
from benchmarks.section import Bench, Section
from benchmarks.tables import Column, Row
from pliant import SFW, Ball, Plan, Shrinkage, Singular
from pliant.data import Batches, Dataset, DatasetNotFoundError, load
from pliant.models import create
from pliant.structure.group import Group

_SHRINKAGE = 3.0
_PICTURE = "quality.png"
_STEPS = "quality.jsonl"


@dataclass(frozen=True)
class Watched:
    """A layer whose oracle is judged."""

    name: str
    size: str
    ball: Ball
    parameter: Tensor
    qualities: list[float] = field(default_factory=list)

    def judge(self, before: Tensor, alpha: float, momentum: Tensor) -> None:
        """Record <v, m> over the optimum, from the weights before and after the step."""
        scaled_vertex = self.parameter.detach().double() - (1.0 - alpha) * before  # alpha v
        reached = float(-(scaled_vertex * momentum.double()).sum() / alpha)
        self.qualities.append(reached / float(self.ball.radius * self.ball.dual(momentum.double())))


@dataclass(frozen=True)
class Quality(Section):
    """<v, m> over the optimum, by layer, over a training run."""

    name: str = "quality"
    title: str = "The oracle's quality over a training run"

    def run(self, bench: Bench) -> list[Row]:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            data, watched, loss = train(bench)
        finally:
            torch.set_num_threads(threads)
        with (bench.folder / _STEPS).open("w") as file:
            for number, values in enumerate(zip(*(layer.qualities for layer in watched), strict=True)):
                file.write(json.dumps({"step": number} | _named(watched, values)) + "\n")
        draw(bench.folder / _PICTURE, watched)
        return [_row(data, layer, loss) for layer in watched]

    def show(self, rows: Sequence[Row]) -> str:
        columns = (
            Column("data", "data"),
            Column("layer", "layer"),
            Column("matrix", "size"),
            Column("steps", "steps"),
            Column("mean", "mean", tables.digits),
            Column("1 % of the steps are below", "low", tables.digits),
            Column("minimum", "minimum", tables.digits),
        )
        picture = "![the oracle's quality over the steps](quality.png)"
        return f"{tables.table(columns, rows)}\n\n{picture}"


def train(bench: Bench) -> tuple[str, list[Watched], float]:
    """Train, judging every step; return the name of the data, the layers, and the mean loss of the last 50 steps."""
    data = _dataset()
    torch.manual_seed(0)
    model = create("cnn-4", num_classes=data.num_classes, in_channels=data.in_channels, image_size=_size(data))
    model.to(bench.device).train()
    plan = Plan.for_low_rank(model, k=0.1)
    plan.make_feasible()
    steps = bench.level.training
    optimizer = SFW(plan, lr=1.0, step_rule=Shrinkage(min(_SHRINKAGE, 0.4 * steps), steps))
    watched = [layer for group in plan for layer in _watched(group)]
    losses = []
    for x, y in islice(_batches(data, bench), steps):
        losses.append(_judged_step(model, optimizer, watched, x, y))
    return data.name, watched, fmean(losses[-50:])


def _judged_step(model: nn.Module, optimizer: SFW, watched: Sequence[Watched], x: Tensor, y: Tensor) -> float:
    loss = F.cross_entropy(model(x), y)
    optimizer.zero_grad()
    loss.backward()
    before = [layer.parameter.detach().double() for layer in watched]
    optimizer.step()
    alphas = {found.names[0]: found.step_size for found in optimizer.diagnostics()}
    for layer, weights in zip(watched, before, strict=True):
        layer.judge(weights, alphas[layer.name], optimizer.state[layer.parameter]["momentum_buffer"])
    return loss.item()


def draw(path: Path, watched: Sequence[Watched]) -> None:
    """Draw the quality of every layer over the steps."""
    figure = Figure(figsize=(7.0, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for layer in watched:
        label = f"{layer.name}: mean {fmean(layer.qualities):.4f}, minimum {min(layer.qualities):.3f}"
        axes.plot(layer.qualities, label=label, linewidth=0.8)
    axes.set_xlabel("step")
    axes.set_ylabel("oracle's objective over the optimum")
    axes.set_ylim(top=1.002)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=130)


def _watched(group: Group) -> list[Watched]:
    ball = group.target
    if not (isinstance(ball, Ball) and isinstance(ball.view, Singular)):
        return []
    (slot,) = group.slots
    _, rows, cols = ball.view.axes.matrix_shape(slot.parameter.shape)
    return [Watched(slot.name, f"{rows}x{cols}", ball, slot.parameter)]


def _dataset() -> Dataset:
    try:
        return load("fashion-mnist")
    except DatasetNotFoundError:
        return load("digits")


def _size(data: Dataset) -> int:
    return int(data.train.images.shape[-1])


def _batches(data: Dataset, bench: Bench) -> Iterator[tuple[Tensor, Tensor]]:
    batches = Batches(
        data.train, batch_size=128, mean=data.mean, std=data.std, shuffle=True, drop_last=True, device=bench.device
    )
    for epoch in count():
        batches.set_epoch(epoch)
        yield from batches


def _named(watched: Sequence[Watched], values: Sequence[float]) -> dict[str, float]:
    return {layer.name: round(value, 6) for layer, value in zip(watched, values, strict=True)}


def _row(data: str, layer: Watched, loss: float) -> Row:
    return {
        "data": data,
        "layer": layer.name,
        "size": layer.size,
        "steps": len(layer.qualities),
        "mean": fmean(layer.qualities),
        "low": quantiles(layer.qualities, n=100, method="inclusive")[0],
        "minimum": min(layer.qualities),
        "final_loss": loss,
    }
