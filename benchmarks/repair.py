"""What the repair of a cut takes: least squares on a thousand images, beside an epoch of fine-tuning."""

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
from benchmarks.timing import Timing, compare
from benchmarks.workloads import IMAGE, NETS
from pliant import FilterPruning, LowRank, Macs, Scheme
from pliant.compress import Compressor, backward_elimination, recalibrate_batchnorm, reconstruct

_NETS = ("resnet-20", "resnet-18", "toy")
_CUTS: Mapping[str, Compressor] = {
    "filters": FilterPruning(),
    "low rank": LowRank(),
    "low rank, spatial": LowRank(scheme=Scheme.SPATIAL),
}
_SHARE = 0.5
_BATCHES = 8
_EPOCH = 50_000  # images of CIFAR-10


@dataclass(frozen=True)
class Repair(Section):
    """Fitting a network at half of its MACs to the whole one; for filters, also choosing them by least squares.

    The alternative is gradient descent: an epoch of CIFAR-10's 50,000 images is counted as that many gradients of a
    batch of the truncated network, optimizer and data left out. All in float32 and eight batches for the repair.
    """

    name: str = "repair"
    title: str = "The repair of a cut"

    def run(self, bench: Bench) -> list[Row]:
        return [row for net in bench.level.nets if net in _NETS for row in _rows(net, bench)]

    def show(self, rows: Sequence[Row]) -> str:
        columns = (
            Column("network", "net"),
            Column("cut", "cut"),
            Column("images", "images"),
            Column("recalibrated", "recalibrate", tables.seconds),
            Column("reconstructed", "reconstruct", tables.seconds),
            Column("filters chosen", "choose", tables.seconds),
            Column("an epoch of gradients", "epoch", tables.seconds),
            Column("repair over epoch", "over_epoch", tables.percent),
        )
        return tables.table(columns, rows)


def _rows(net: str, bench: Bench) -> list[Row]:
    spec = NETS[net]
    model = spec.build(bench.device).eval()
    batches = _images(min(bench.level.batch, spec.largest_batch), bench.device)
    return [{"net": net, "cut": name} | _row(cut, model, batches, bench) for name, cut in _CUTS.items()]


def _row(compressor: Compressor, model: nn.Module, batches: Sequence[Tensor], bench: Bench) -> Row:
    example = batches[0][:1]
    cut = compressor.select(model, budget=Macs(_SHARE), example=example)
    truncated = compressor.truncate(model, cut)
    calls: dict[str, Callable[[], object]] = {
        "recalibrate": partial(recalibrate_batchnorm, truncated, batches),
        "reconstruct": partial(reconstruct, truncated, model, cut, batches),
        "gradient": partial(_gradient, truncated, batches[0]),
    }
    if isinstance(compressor, FilterPruning):
        calls["choose"] = partial(backward_elimination, compressor, model, batches)
    taken = compare(calls, device=bench.device, effort=bench.level.effort)
    steps = _EPOCH / len(batches[0])
    row: Row = {key: timing.median for key, timing in taken.items() if key != "gradient"}
    row |= {"epoch": steps * taken["gradient"].median, "over_epoch": _over(taken) / steps}
    return row | {"images": sum(map(len, batches))}


def _over(taken: Mapping[str, Timing]) -> float:
    """Return how many gradients the repair takes."""
    return sum(taken[key].over(taken["gradient"]) for key in ("reconstruct", "choose") if key in taken)


def _images(batch: int, device: torch.device) -> Sequence[Tensor]:
    """Return batches of noise that is smooth over 4 x 4 pixels: neighbouring pixels of images are alike."""
    noise = torch.randn(batch * _BATCHES, 3, IMAGE // 4, IMAGE // 4, generator=torch.Generator().manual_seed(0))
    return F.interpolate(noise, IMAGE, mode="bilinear").to(device).split(batch)


def _gradient(model: nn.Module, images: Tensor) -> None:
    model.train()
    labels = torch.zeros(len(images), dtype=torch.long, device=images.device)
    F.cross_entropy(model(images), labels).backward()
    model.eval()
