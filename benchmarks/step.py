"""How long an optimizer step takes, against torch's optimizers and against the published algorithm taken literally."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from benchmarks import floor, tables
from benchmarks.contestants import ADAMW, FUSED, LITERALS, SGD, Constrained, Entry, Muon, constrained, contest, variants
from benchmarks.section import Bench, Section
from benchmarks.tables import Column, Row
from benchmarks.timing import Timing
from benchmarks.workloads import NETS


@dataclass(frozen=True)
class Step(Section):
    """Median time of `optimizer.step()`, gradients drifting from round to round."""

    name: str = "step"
    title: str = "An optimizer step"

    def run(self, bench: Bench) -> list[Row]:
        return [row for net in bench.level.nets for row in _net(net, bench)]

    def show(self, rows: Sequence[Row]) -> str:
        columns = (
            Column("network", "net"),
            Column("optimizer", "optimizer"),
            Column("constrained", "constrained", tables.percent),
            Column("step", "seconds", tables.seconds),
            Column("IQR", "iqr", tables.seconds),
            Column("over SGD, foreach", "over_sgd", tables.times),
            Column("over its floor", "over_floor", tables.times),
        )
        return tables.table(columns, rows)


def _net(net: str, bench: Bench) -> list[Row]:
    spec = NETS[net]
    model = spec.build(bench.device)
    entries = [SGD, FUSED, ADAMW, Muon(), *constrained(spec), *variants(), *(LITERALS if spec.literal else ())]
    found = contest(entries, model, device=bench.device, effort=bench.level.effort)
    count = sum(p.numel() for p in model.parameters())
    rates = floor.rates(count, device=bench.device, effort=bench.level.effort)
    return [_row(net, entry, model, found, rates) for entry in entries]


def _row(net: str, entry: Entry, model: nn.Module, found: dict[str, Timing], rates: floor.Rates) -> Row:
    timing = found[entry.name]
    return {
        "net": net,
        "optimizer": entry.name,
        "constrained": constrained_share(entry, model),
        "seconds": timing.median,
        "iqr": timing.iqr,
        "calls": timing.calls,
        "over_sgd": timing.over(found[SGD.name]),
        "over_floor": _over_floor(entry, model, timing, rates),
    }


def constrained_share(entry: Entry, model: nn.Module) -> float | None:
    """Return the share of the weights that a plan constrains; None for optimizers that constrain nothing."""
    if not isinstance(entry, Constrained):
        return None
    plan = entry.plan(model, k=0.1)
    counts = [(group, sum(slot.parameter.numel() for slot in group.slots)) for group in plan]
    held = sum(count for group, count in counts if group.options()["region"] is not None)
    return held / sum(count for _, count in counts)


def _over_floor(entry: Entry, model: nn.Module, timing: Timing, rates: floor.Rates) -> float | None:
    if isinstance(entry, Constrained):
        return timing.median / rates.seconds(floor.work_of(entry.plan(model, k=0.1)))
    if entry in (SGD, FUSED):
        parameters = sum(p.nbytes for p in model.parameters())
        return timing.median / rates.seconds(floor.Work(floor.SGD_STREAMS * parameters, 0.0))
    return None
