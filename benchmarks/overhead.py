"""What training for low rank adds to SGD: Frank-Wolfe beside the nuclear norm as a penalty and by its proximal map."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from torch import nn

from benchmarks import tables
from benchmarks.contestants import LR, SGD, VIEWS, Constrained, Contestant, Entry, contest
from benchmarks.section import Bench, Section
from benchmarks.tables import Column, Row
from benchmarks.timing import Timing
from benchmarks.workloads import NETS
from pliant.methods import Around, NuclearNorm, Subgradient, penalised, penalised_groups
from pliant.optim import ProximalSGD

STEPS = 391  # of an epoch: 50,000 images, 128 a batch
WEIGHT = 1e-3
NETWORKS = ("resnet-20", "resnet-18", "toy")
SFW_NAME = "SFW singular, k = 10 %"
EVERY_STEP = "nuclear norm, proximal map every step"


@dataclass(frozen=True)
class Proximal(Entry):
    """SGD, then the proximal map of the nuclear norm after every step, or never."""

    name: str
    every: int | None

    def enter(self, model: nn.Module) -> Contestant:
        own = copy.deepcopy(model)
        groups = penalised_groups(own, penalised(own, [NuclearNorm(WEIGHT)]))
        optimizer = ProximalSGD(groups, lr=LR, momentum=0.9, prox_every=self.every)
        return Contestant(list(own.parameters()), optimizer)


@dataclass(frozen=True)
class InTheLoss(Entry):
    """SGD on the loss plus the nuclear norm, by its subgradient."""

    name: str = "nuclear norm in the loss"

    def enter(self, model: nn.Module) -> Contestant:
        own = copy.deepcopy(model)
        inner = SGD.make(own.parameters())
        return Contestant(list(own.parameters()), Around(inner, [Subgradient(penalised(own, [NuclearNorm(WEIGHT)]))]))


ENTRIES: tuple[Entry, ...] = (
    SGD,
    Constrained(SFW_NAME, VIEWS["singular"]),
    InTheLoss(),
    Proximal(EVERY_STEP, 1),
    Proximal("SGD of the proximal method", None),
)


@dataclass(frozen=True)
class Overhead(Section):
    """Seconds beyond SGD's own in an epoch of 391 steps, and over those of SFW."""

    name: str = "overhead"
    title: str = "What training for low rank adds"

    def run(self, bench: Bench) -> list[Row]:
        return [row for net in NETWORKS if net in bench.level.nets for row in _rows(net, bench)]

    def show(self, rows: Sequence[Row]) -> str:
        columns = (
            Column("network", "net"),
            Column("method", "method"),
            Column("a step", "seconds", tables.seconds),
            Column("an epoch adds", "added", tables.seconds),
            Column("over what SFW adds", "over_sfw", tables.times),
        )
        return tables.table(columns, rows)


def _rows(net: str, bench: Bench) -> list[Row]:
    model = NETS[net].build(bench.device)
    found = contest(ENTRIES, model, device=bench.device, effort=bench.level.effort)
    plain, sgd, sfw = found[ENTRIES[-1].name], found[SGD.name], found[SFW_NAME]
    rows = [_row(net, name, timing, sgd, sfw) for name, timing in found.items() if timing is not plain]
    once = found[EVERY_STEP].median - plain.median  # the map alone, where it is applied once an epoch
    name, added = "nuclear norm, proximal map every epoch", STEPS * (plain.median - sgd.median) + once
    seconds = plain.median + once / STEPS
    ours = STEPS * (sfw.median - sgd.median)
    return [*rows, {"net": net, "method": name, "seconds": seconds, "added": added, "over_sfw": added / ours}]


def _row(net: str, name: str, timing: Timing, sgd: Timing, sfw: Timing) -> Row:
    row: Row = {"net": net, "method": name, "seconds": timing.median}
    if timing is sgd:
        return row
    turns = zip(timing.rounds, sfw.rounds, sgd.rounds, strict=False)  # what takes long has one
    ratio = median((mine - base) / (ours - base) for mine, ours, base in turns)
    return row | {"added": STEPS * (timing.median - sgd.median), "over_sfw": ratio}
