"""What a run of the optimizer looks like from inside, on request."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from pliant.optim.point import Point


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
    """

    names: tuple[str, ...]
    gap: float
    step_size: float
    shrinkage: float
    kept: float
    value: float
    radius: float


@torch.no_grad()
def diagnose(point: Point) -> GroupDiagnostics:
    """Return the diagnostics of one point."""
    head = point.states[0]
    weights, direction = point.as_point(list(point.params)), point.as_point(point.direction())
    return GroupDiagnostics(
        names=point.names,
        gap=float(point.region.gap(weights, direction)),
        step_size=float(head.get("step_size", 0.0)),
        shrinkage=float(head.get("shrinkage", 0.0)),
        kept=float(head.get("kept", 1.0)),
        value=float(point.region.value(weights)),
        radius=point.region.radius,
    )
