"""How much faster a network is that was cut to half of its multiply-accumulates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch

from benchmarks import tables
from benchmarks.section import Bench, Section
from benchmarks.tables import Column, Row
from benchmarks.timing import compare
from benchmarks.workloads import IMAGE, NETS
from pliant import FilterPruning, LowRank, Macs, Scheme, compress
from pliant.compress import Both
from pliant.compress.budgets import ByFraction

_NETS = ("resnet-18", "resnet-20", "toy")
_BATCHES = (1, 64)
_SHARE = 0.5
_CUTS = {
    "filters": FilterPruning(),
    "low rank": LowRank(),
    "low rank, spatial": LowRank(scheme=Scheme.SPATIAL),
    "both": Both(),
}


@dataclass(frozen=True)
class CutModels(Section):
    """Forward passes of the cut and of the whole network in turns, in evaluation mode, float32.

    Every layer loses the same fraction, the smallest that meets the budget, so that the times do not depend on what was
    trained.
    """

    name: str = "cut"
    title: str = "Networks at half of their MACs"

    def run(self, bench: Bench) -> list[Row]:
        return [row for net in bench.level.nets if net in _NETS for row in _rows(net, bench)]

    def show(self, rows: Sequence[Row]) -> str:
        columns = (
            Column("network", "net"),
            Column("cut", "cut"),
            Column("batch", "batch"),
            Column("MACs", "macs", tables.percent),
            Column("parameters", "parameters", tables.percent),
            Column("before", "before", tables.seconds),
            Column("after", "after", tables.seconds),
            Column("faster", "faster", tables.times),
            Column("of what the MACs promise", "kept", tables.percent),
        )
        return tables.table(columns, rows)


@torch.no_grad()
def _rows(net: str, bench: Bench) -> list[Row]:
    model = NETS[net].build(bench.device).eval()
    example = torch.randn(1, 3, IMAGE, IMAGE, generator=torch.Generator().manual_seed(0)).to(bench.device)
    budget = Macs(_SHARE, ByFraction())
    done = {name: compress(model, cut, budget=budget, example=example) for name, cut in _CUTS.items()}
    models = {"": model} | {name: small.model.eval() for name, small in done.items()}
    rows: list[Row] = []
    for batch in _BATCHES:
        images = example.expand(batch, -1, -1, -1).contiguous()
        calls = {name: partial(part, images) for name, part in models.items()}
        taken = compare(calls, device=bench.device, effort=bench.level.effort)
        for name, small in done.items():
            report = small.report
            macs, faster = report.macs / report.dense_macs, taken[""].over(taken[name])
            row = {"net": net, "cut": name, "batch": batch, "macs": macs, "before": taken[""].median}
            row |= {"parameters": report.parameters / report.dense_parameters, "after": taken[name].median}
            rows.append(row | {"faster": faster, "kept": faster * macs})
    return rows
