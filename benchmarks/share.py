"""What share of a training step the optimizer takes: forward, backward and step in turn, as in training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks import tables
from benchmarks.contestants import ADAMW, SGD, Contestant, constrained
from benchmarks.section import Bench, Section
from benchmarks.tables import Column, Row
from benchmarks.timing import Clock, clock
from benchmarks.workloads import CLASSES, IMAGE, NETS
from pliant.training.loop import precision

_UNTIMED = 2  # steps in which caches fill and oracles find their way
_USUAL = 128


@dataclass(frozen=True)
class Setting:
    """The arithmetic of a training step."""

    name: str
    autocast: torch.dtype | None
    layout: torch.memory_format


SETTINGS = (
    Setting("float32", None, torch.contiguous_format),
    Setting("bfloat16 autocast, channels last", torch.bfloat16, torch.channels_last),
)


@dataclass(frozen=True)
class Share(Section):
    """The step's median time over that of the whole training step.

    The gradients of every batch go to all optimizers in turn, each on its own copy of the weights, so that all of them
    find the caches as the backward pass and the others leave them.
    """

    name: str = "share"
    title: str = "The optimizer's share of a training step"

    def run(self, bench: Bench) -> list[Row]:
        return [row for net in bench.level.nets for setting in SETTINGS for row in _rows(net, setting, bench)]

    def show(self, rows: Sequence[Row]) -> str:
        columns = (
            Column("network", "net"),
            Column("arithmetic", "setting"),
            Column("batch", "batch"),
            Column("forward and backward", "rest", tables.seconds),
            Column("optimizer", "optimizer"),
            Column("step", "seconds", tables.seconds),
            Column("share", "share", tables.percent),
            Column("over SGD, foreach", "over_sgd", tables.times),
            Column("share at batch 128, in proportion", "share_at_usual", tables.percent),
        )
        return tables.table(columns, rows)


def _rows(net: str, setting: Setting, bench: Bench) -> list[Row]:
    spec = NETS[net]
    batch = min(bench.level.batch, spec.largest_batch)
    model = spec.build(bench.device).to(memory_format=setting.layout)  # type: ignore[call-overload]  # torch's stub lacks it
    contestants = {entry.name: entry.enter(model) for entry in (SGD, ADAMW, *constrained(spec))}
    rest, steps = _train(model, contestants, setting, batch, bench)
    reference = median(steps[SGD.name])
    rows = []
    for name, taken in steps.items():
        row = {"net": net, "setting": setting.name, "batch": batch, "rest": median(rest), "optimizer": name}
        step = median(taken)
        row |= {"seconds": step, "share": step / (step + median(rest)), "over_sgd": step / reference}
        rows.append(row | {"share_at_usual": step / (step + median(rest) * _USUAL / batch)})
    return rows


def _train(
    model: nn.Module, contestants: dict[str, Contestant], setting: Setting, batch: int, bench: Bench
) -> tuple[list[float], dict[str, list[float]]]:
    now = clock(bench.device)
    generator = torch.Generator(bench.device).manual_seed(0)
    driver = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    rest: list[float] = []
    steps: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(_UNTIMED + bench.level.steps):
        images = torch.randn(batch, 3, IMAGE, IMAGE, generator=generator, device=bench.device)
        labels = torch.randint(CLASSES, (batch,), generator=generator, device=bench.device)
        driver.zero_grad()
        start = now()
        _backward(model, setting, images.to(memory_format=setting.layout), labels)
        rest.append(now() - start)
        for name, contestant in contestants.items():
            steps[name].append(_step(model, contestant, now))
        driver.step()
    return rest[_UNTIMED:], {name: taken[_UNTIMED:] for name, taken in steps.items()}


def _backward(model: nn.Module, setting: Setting, images: Tensor, labels: Tensor) -> None:
    with precision(images.device, setting.autocast):
        scores = model(images)
    F.cross_entropy(scores.float(), labels).backward()


def _step(model: nn.Module, contestant: Contestant, now: Clock) -> float:
    contestant.give(p.grad for p in model.parameters())
    start = now()
    contestant.optimizer.step()
    return now() - start
