"""Where the time of a step goes: the operators that take most of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch.autograd.profiler_util import FunctionEventAvg
from torch.profiler import ProfilerActivity, profile

from benchmarks import tables
from benchmarks.contestants import SGD, Contestant, constrained
from benchmarks.section import Bench, Section
from benchmarks.tables import Column, Row
from benchmarks.workloads import NETS, Drift

_SHOWN = 5
_STEPS = 3
_UNTIMED = 2
_ACTIVITIES = {"cpu": ProfilerActivity.CPU, "cuda": ProfilerActivity.CUDA}


@dataclass(frozen=True)
class Costs(Section):
    """The largest shares of an optimizer step's own time, by operator."""

    name: str = "costs"
    title: str = "Where a step's time goes"

    def run(self, bench: Bench) -> list[Row]:
        rows = []
        for net in bench.level.nets:
            spec = NETS[net]
            model = spec.build(bench.device)
            drift = Drift.of(model, bench.device)
            for entry in (SGD, *constrained(spec)):
                largest = _largest(entry.enter(model), drift)
                rows += [{"net": net, "optimizer": entry.name} | row for row in largest]
        return rows

    def show(self, rows: Sequence[Row]) -> str:
        lines: dict[tuple[str, str], list[str]] = {}
        for row in rows:
            text = f"{row['operator']} {tables.percent(row['share'])} ({row['calls']:.0f} calls)"
            lines.setdefault((row["net"], row["optimizer"]), []).append(text)
        shown = [{"net": net, "optimizer": name, "costs": ", ".join(texts)} for (net, name), texts in lines.items()]
        columns = (Column("network", "net"), Column("optimizer", "optimizer"), Column("largest shares", "costs"))
        return tables.table(columns, shown)


def _largest(contestant: Contestant, drift: Drift) -> list[Row]:
    for _ in range(_UNTIMED):
        drift.move()
        contestant.give(drift.gradients)
        contestant.optimizer.step()
    device = drift.gradients[0].device.type
    with profile(activities=[_ACTIVITIES[device]]) as seen:
        for _ in range(_STEPS):
            contestant.optimizer.step()
    # On a GPU what counts is the kernels' time; on the CPU the step's own time is what Python takes between operators.
    times = {event.key: _own_time(event, device) for event in seen.key_averages()}
    calls = {event.key: event.count / _STEPS for event in seen.key_averages()}
    largest = sorted(times, key=times.__getitem__, reverse=True)[:_SHOWN]
    return [
        {"operator": _title(key), "share": times[key] / sum(times.values()), "calls": calls[key]} for key in largest
    ]


def _own_time(event: FunctionEventAvg, device: str) -> float:
    return float(event.self_device_time_total if device == "cuda" else event.self_cpu_time_total)


def _title(key: str) -> str:
    return "Python" if key.startswith("Optimizer.step") else key.removeprefix("aten::")
