"""What a random cut takes: truncating all weights of a network, as training at cuts does before a gradient."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks import tables
from benchmarks.section import Bench, Section
from benchmarks.tables import Column, Row
from benchmarks.timing import compare
from benchmarks.workloads import IMAGE, NETS
from pliant import FilterPruning, LowRank, Scheme
from pliant.compress import Compressor
from pliant.compress.truncation import decompose
from pliant.methods import Operator, operator_of
from pliant.structure.matricise import axes_in

_NETS = ("resnet-20", "resnet-18", "toy")
_CUTS: Mapping[str, tuple[Compressor, float]] = {  # and how much of it goes, as much as in the presets, or nearly
    "filters": (FilterPruning(), 0.4),
    "low rank": (LowRank(), 0.7),
    "low rank, spatial": (LowRank(scheme=Scheme.SPATIAL), 0.85),
}
_GRADIENT = "gradient"
_WHOLE = ", whole"


@dataclass(frozen=True)
class TrainingCut(Section):
    """Truncating the weights in place, beside a gradient in float32 and, for ranks, decomposing all matrices fully."""

    name: str = "training-cut"
    title: str = "A random cut"

    def run(self, bench: Bench) -> list[Row]:
        return [row for net in _NETS if net in bench.level.nets for row in _rows(net, bench)]

    def show(self, rows: Sequence[Row]) -> str:
        columns = (
            Column("network", "net"),
            Column("cut", "cut"),
            Column("removed", "removed", tables.percent),
            Column("a cut", "seconds", tables.seconds),
            Column("a gradient", "gradient", tables.seconds),
            Column("cut over gradient", "over_gradient", tables.percent),
            Column("full decompositions over cut", "whole", tables.times),
        )
        return tables.table(columns, rows)


def _rows(net: str, bench: Bench) -> list[Row]:
    spec = NETS[net]
    model = spec.build(bench.device)
    batch = min(bench.level.batch, spec.largest_batch)
    calls: dict[str, Callable[[], object]] = {_GRADIENT: _gradient(model, batch, bench.device)}
    before = [(p, p.detach().clone()) for p in model.parameters()]
    for name, (compressor, removed) in _CUTS.items():
        operator = operator_of(compressor, model, torch.zeros(1, 3, IMAGE, IMAGE, device=bench.device))
        calls[name] = partial(_cut, operator, removed, before)
        if isinstance(compressor, LowRank):
            calls[name + _WHOLE] = partial(_decompose, model, compressor.scheme)
    taken = compare(calls, device=bench.device, effort=bench.level.effort)
    rows: list[Row] = []
    for name, (_, removed) in _CUTS.items():
        row = {"net": net, "cut": name, "removed": removed, "seconds": taken[name].median}
        row |= {"gradient": taken[_GRADIENT].median, "over_gradient": taken[name].over(taken[_GRADIENT])}
        whole = taken.get(name + _WHOLE)
        rows.append(row | ({} if whole is None else {"whole": whole.over(taken[name])}))
    return rows


def _gradient(model: nn.Module, batch: int, device: torch.device) -> Callable[[], object]:
    images, labels = torch.randn(batch, 3, IMAGE, IMAGE, device=device), torch.zeros(batch, device=device).long()
    return lambda: F.cross_entropy(model(images), labels).backward()


@torch.no_grad()
def _cut(operator: Operator, removed: float, before: Sequence[tuple[Tensor, Tensor]]) -> None:
    """Cut and put back."""
    operator.compress(removed)
    for parameter, old in before:
        parameter.copy_(old)


@torch.no_grad()
def _decompose(model: nn.Module, scheme: Scheme) -> None:
    """Do what a cut would take without subspace iteration, but for putting the factors together."""
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            decompose(axes_in(scheme, layer).to_matrices(layer.weight))
