"""What a run is told once, where it would otherwise fail to train without a word."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch

from pliant.optim.group import points_of
from pliant.optim.point import Point
from pliant.optim.steps import Shrinkage
from pliant.sharding import is_sharded

_LOG = logging.getLogger(__name__)
_ROUNDING = 0.01  # share of the radius; above what bfloat16 adds to weights on the boundary
_SHOWN = 3


@torch.no_grad()
def tell_of_infeasible(groups: Iterable[dict[str, Any]]) -> None:
    """Log a warning that names the points outside their regions; sharded weights are not looked at."""
    outside = []
    for region, labels, params in ((g["region"], *point) for g in groups for point in points_of(g)):
        point: Any = params[0] if region.arity == 1 else params
        if not any(p.is_meta or is_sharded(p) for p in params) and not region.contains(point, tol=_ROUNDING):
            outside.append(f"{', '.join(labels)} of norm {float(region.value(point)):.4g}, radius {region.radius:.4g}")
    if outside:
        shown = "; ".join(outside[:_SHOWN]) + ("; ..." if len(outside) > _SHOWN else "")
        _LOG.warning(
            "%d constrained weights are outside their regions (%s), and steps bring them in but slowly: call "
            "plan.make_feasible() before the first step",
            len(outside),
            shown,
        )


def tell_of_no_gradient() -> None:
    """Log a warning that a run starts without moving any constrained weight."""
    _LOG.warning(
        "no constrained weight has a gradient in the first step, so that none moves: they are frozen, backward() was "
        "not called, or the model no longer has these parameters. After fully_shard or a conversion make a new plan, "
        "by Plan.from_json(model, plan.to_json())"
    )


def count_down(left: float | None, points: Sequence[Point]) -> float:
    """Count a step, and log a warning where the steps of `Shrinkage` were used up before it.

    Waits for the device only where the account of a resumed run is read, and at the end: skipped steps, and points that
    rested, may have made the count too small.

    Args:
        left: what the last call returned; None: there was none.
        points: that take the step.

    Returns:
        How many more steps move all points; infinity where there is no end, or it was told.
    """
    if left is None or left < 1.0:
        left, end = min(((_left(point), point) for point in points), key=lambda pair: pair[0])
        if left < 1.0:
            _LOG.warning(
                "the steps of %r are used up: the weights under it, such as %s, stay as they are from here on. Give "
                'the rule the number of optimizer steps of the whole run; to go on, set group["step_rule"] of the '
                "constrained groups to a longer one",
                end.group["step_rule"],
                end.names[0],
            )
            return math.inf
    return left - 1.0


def _left(point: Point) -> float:
    rule = point.group["step_rule"]
    return rule.steps - float(point.states[0].get("steps", 0.0)) if isinstance(rule, Shrinkage) else math.inf
