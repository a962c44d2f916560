"""What any implementation of a step must move and multiply, and how long this machine needs for that at least.

A stream is one read or one write of a whole weight-sized tensor. The counts, for the default step rule:

| weights | streams | multiplications and additions |
|---|---|---|
| SGD with momentum, and free weights | 5: read m, g; write m; read and write theta | |
| entries, filters | 7: read m, g, theta, write m; then read m, theta, write theta | |
| matrices of N x M, vertices of rank k | 7: the same | 6 N M k |

A Frank-Wolfe step cannot write a weight before it has seen the whole gradient (which atoms are the largest, how far to
go), hence the second pass; in the first it reads theta as well, for the distance to the vertex. The multiplications are
two passes of one subspace iteration, m V and Q^T m, and the product of the vertex's two factors.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from benchmarks.timing import Effort, Timing, compare
from pliant import Ball, Plan, Singular, TopK
from pliant.structure.group import Group

SGD_STREAMS = 5
SFW_STREAMS = 7
_SIDE = 1024


@dataclass(frozen=True)
class Work:
    """Bytes to move and floating-point operations to do."""

    moved: float
    operations: float

    def __add__(self, other: Work) -> Work:
        return Work(self.moved + other.moved, self.operations + other.operations)


@dataclass(frozen=True)
class Rates:
    """What the machine does at best: bytes and operations a second."""

    moved: float
    operations: float

    def seconds(self, work: Work) -> float:
        """Return the least time for this work, if nothing overlaps."""
        return work.moved / self.moved + work.operations / self.operations


def work_of(plan: Plan) -> Work:
    """Return the work of one step under a plan."""
    return sum(map(_group, plan), Work(0.0, 0.0))


def work_of_sgd(plan: Plan) -> Work:
    """Return the work of one step of SGD with momentum on the same parameters."""
    return Work(sum(SGD_STREAMS * _bytes(group) for group in plan), 0.0)


def rates(count: int, *, device: torch.device, effort: Effort) -> Rates:
    """Measure what the machine does at best.

    Args:
        count: weights of the network: what fits the cache moves faster.
        device: of the tensors.
        effort: of the timing.
    """
    a, b = (torch.zeros(count, device=device) for _ in range(2))
    square = torch.ones(_SIDE, _SIDE, device=device)
    out = torch.empty_like(square)
    found: dict[str, Timing] = compare(
        {"moved": lambda: a.add_(b), "operations": lambda: torch.mm(square, square, out=out)},
        device=device,
        effort=effort,
    )
    return Rates(3 * a.nbytes / min(found["moved"].rounds), 2 * _SIDE**3 / min(found["operations"].rounds))


def _group(group: Group) -> Work:
    if not isinstance(group.target, Ball):
        return Work(SGD_STREAMS * _bytes(group), 0.0)
    return Work(SFW_STREAMS * _bytes(group), _operations(group, group.target))


def _bytes(group: Group) -> float:
    return float(sum(slot.parameter.nbytes for slot in group.slots))


def _operations(group: Group, ball: Ball) -> float:
    if not isinstance(ball.view, Singular):
        return 0.0
    shapes = [slot.parameter.shape for slot in group.slots]
    count = ball.view.count(*shapes)
    gauge = ball.gauge.at(count)
    k = gauge.k if isinstance(gauge, TopK) else count
    return 6.0 * k * sum(shape.numel() for shape in shapes)
