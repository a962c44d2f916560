"""What a run of the optimizer looks like from inside, on request."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass

import torch

from pliant.optim.oracle import MEMORY
from pliant.optim.point import Point
from pliant.sharding import whole


@dataclass(frozen=True)
class GroupDiagnostics:
    """State of one point of a region.

    Args:
        names: its parameters.
        gap: Frank-Wolfe gap of the current gradient (of the momentum where there is no gradient); >= 0 when feasible.
        step_size: the last alpha.
        shrinkage: sum of all alphas so far.
        kept: product of all 1 - alpha so far: the share of the initial weights that is left.
        value: the norm.
        radius: its bound; feasible means value <= radius.
        quality: objective of the oracle over its optimum, for the current momentum; 1 where the oracle is exact, NaN
            where there is no momentum.
    """

    names: tuple[str, ...]
    gap: float
    step_size: float
    shrinkage: float
    kept: float
    value: float
    radius: float
    quality: float


@torch.no_grad()
def diagnose(point: Point) -> GroupDiagnostics:
    """Return the diagnostics of one point. Collective where its tensors are sharded."""
    head = point.states[0]
    weights = point.as_point([whole(p) for p in point.params])
    direction = point.as_point([whole(d) for d in point.direction()])
    return GroupDiagnostics(
        names=point.names,
        gap=float(point.region.gap(weights, direction)),
        step_size=float(head.get("step_size", 0.0)),
        shrinkage=float(head.get("shrinkage", 0.0)),
        kept=float(head.get("kept", 1.0)),
        value=float(point.region.value(weights)),
        radius=point.region.radius,
        quality=_quality(point),
    )


def _quality(point: Point) -> float:
    """Compare the vertex that the next step would get, were it for today's momentum, with the exact optimum."""
    pairs = zip(point.params, point.states, strict=True)
    parts = [whole(state.get("momentum_buffer", torch.zeros_like(p))) for p, state in pairs]
    momentum = point.as_point(parts)
    memory = None if point.group["exact"] else copy.deepcopy(point.states[0].get(MEMORY, {}))
    optimum = point.region.radius * float(point.region.dual(momentum))
    if optimum == 0.0:
        return math.nan
    pairs_of = zip(point.region.vertex(momentum, memory), parts, strict=True)
    found = sum(float((v.dense().double() * m.double()).sum()) for v, m in pairs_of)
    return -found / optimum
