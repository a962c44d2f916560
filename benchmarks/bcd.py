"""Sweeps of block coordinate descent: flops and time, against the published formulas, on the same problem in turns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import tables
from benchmarks.bcd_literal import LiteralBCD, Weights
from benchmarks.section import Bench, Section
from benchmarks.tables import Column, Row
from benchmarks.timing import compare
from pliant.bcd import BlockCoordinateDescent
from pliant.sets import SparseSet, WeightSet

WEIGHTS = Weights(rho=1.0, gamma=1.0, tau=3.0, alpha=1.0)
_DENSITY = 0.1


@dataclass(frozen=True)
class Workload:
    """A network and how many samples it is given.

    Args:
        name: of the workload.
        samples: how many.
        inputs: shape of one sample.
        widths: of the linear layers' outputs.
        filters: of a first convolution, 3x3 with stride 2; 0 for none.
    """

    name: str
    samples: int
    inputs: tuple[int, ...]
    widths: tuple[int, ...]
    filters: int = 0

    def smaller(self, by: int) -> Workload:
        """Return a workload with fewer samples and narrower layers."""
        widths = tuple(max(2, width // by) for width in self.widths[:-1])
        inputs = (max(2, self.inputs[0] // by),) if len(self.inputs) == 1 else self.inputs
        return Workload(
            self.name, max(8, self.samples // by), inputs, (*widths, self.widths[-1]), -(-self.filters // by)
        )

    def model(self) -> nn.Sequential:
        """Return the network, the same every time, without biases, as published."""
        with torch.random.fork_rng():
            torch.manual_seed(0)
            layers: list[nn.Module] = []
            before = prod(self.inputs)
            if self.filters:
                layers += [nn.Conv2d(self.inputs[0], self.filters, 3, stride=2, bias=False), nn.ReLU(), nn.Flatten()]
                before = self.filters * prod((size - 3) // 2 + 1 for size in self.inputs[1:])
            for width in self.widths:
                layers += [nn.Linear(before, width, bias=False), nn.ReLU()]
                before = width
            return nn.Sequential(*layers[:-1])

    def data(self) -> tuple[Tensor, Tensor]:
        """Return noise in [0, 1] and labels."""
        generator = torch.Generator().manual_seed(0)
        x = torch.rand(self.samples, *self.inputs, generator=generator)
        return x, torch.randint(self.widths[-1], (self.samples,), generator=generator)

    def compressed(self) -> dict[int, WeightSet]:
        """Return sets for all linear layers but the last, by block."""
        first = 1 if self.filters else 0
        return {index: SparseSet(_DENSITY) for index in range(first, first + len(self.widths) - 1)}


# The published problems: layer sizes and sample counts.
WORKLOADS = (
    Workload("MNIST convolution", 6000, (1, 28, 28), (1024, 1024, 10), filters=32),
    Workload("HAR, four hidden layers", 7352, (561,), (1024, 1024, 1024, 512, 6)),
    Workload("HAR, five hidden layers", 7352, (561,), (1024, 1024, 1024, 512, 512, 6)),
    Workload("flare, LeNet-300-100", 8114, (40,), (300, 100, 2)),
)
_SMALLER = {"full": 1, "quick": 4, "toy": 64}


class Sweeps(Section):
    """What a sweep costs."""

    name = "bcd"
    title = "A sweep of block coordinate descent against the published formulas"

    def run(self, bench: Bench) -> list[Row]:
        """Count and time one sweep of each workload."""
        workloads = [workload.smaller(_SMALLER[bench.level.name]) for workload in WORKLOADS]
        return [_row(workload, bench) for workload in workloads]

    def show(self, rows: Sequence[Row]) -> str:
        """Return the rows as Markdown."""
        columns = (
            Column("problem", "name"),
            Column("samples", "samples"),
            Column("published, GF", "literal_flops", _giga),
            Column("pliant, GF", "flops", _giga),
            Column("flops", "flop_share", tables.percent),
            Column("published", "literal_seconds", tables.seconds),
            Column("pliant", "seconds", tables.seconds),
            Column("faster", "ratio", tables.times),
        )
        return tables.table(columns, rows)


def contestants(workload: Workload, device: torch.device) -> tuple[LiteralBCD, Callable[[], object]]:
    """Return the published method and a sweep of pliant's, from the same start."""
    x, y = (part.to(device) for part in workload.data())
    sets = workload.compressed()
    literal = LiteralBCD(workload.model().to(device), sets, x, y, WEIGHTS)
    model = workload.model().to(device)
    layers = [name for name, layer in model.named_modules() if isinstance(layer, nn.Linear | nn.Conv2d)]
    named = {layers[index]: one for index, one in sets.items()}
    rho, gamma, tau, alpha = WEIGHTS.rho, WEIGHTS.gamma, WEIGHTS.tau, WEIGHTS.alpha
    bcd = BlockCoordinateDescent(model, named, rho=rho, gamma=gamma, tau=tau, alpha=alpha, chunk=2048)
    bcd.sweep(x, y)  # the first sweep sums the Gram matrix that all others have
    return literal, lambda: bcd.sweep(x, y)


def _row(workload: Workload, bench: Bench) -> Row:
    literal, ours = contestants(workload, bench.device)
    flops = {"literal": count(literal.sweep), "ours": count(ours)}
    times = compare({"literal": literal.sweep, "ours": ours}, device=bench.device, effort=bench.level.effort)
    return {
        "name": workload.name,
        "samples": workload.samples,
        "literal_flops": flops["literal"],
        "flops": flops["ours"],
        "flop_share": flops["ours"] / flops["literal"],
        "literal_seconds": times["literal"].median,
        "seconds": times["ours"].median,
        "ratio": times["literal"].over(times["ours"]),
    }


def count(call: Callable[[], object]) -> int:
    """Return the flops of matrix products, convolutions, factorisations and solves of a call."""
    with FlopCounterMode(display=False, custom_mapping=_COUNTED) as counter:
        call()
    return int(counter.get_total_flops())


Shape = Sequence[int]


def _add_product(_: Shape, left: Shape, right: Shape, *__: Any, **___: Any) -> int:  # noqa: ANN401  (torch passes more)
    return 2 * left[0] * left[1] * right[1]


def _cholesky(matrix: Shape, *_: Any, **__: Any) -> int:  # noqa: ANN401
    return matrix[-1] ** 3 // 3


def _cholesky_solve(right: Shape, factor: Shape, *_: Any, **__: Any) -> int:  # noqa: ANN401
    return 2 * factor[-1] ** 2 * right[-1]


def _triangular(matrix: Shape, right: Shape, *_: Any, **__: Any) -> int:  # noqa: ANN401
    return matrix[-1] * right[-2] * right[-1]


def _inverse(matrix: Shape, *_: Any, **__: Any) -> int:  # noqa: ANN401
    return 2 * matrix[-1] ** 3


_COUNTED: dict[Any, Any] = {
    torch.ops.aten.addmm_: _add_product,
    torch.ops.aten.linalg_cholesky_ex: _cholesky,
    torch.ops.aten.cholesky_solve: _cholesky_solve,
    torch.ops.aten.linalg_solve_triangular: _triangular,
    torch.ops.aten.linalg_inv_ex: _inverse,
}


def _giga(value: float) -> str:
    return f"{value / 1e9:.3g}"
