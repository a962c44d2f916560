"""The vertices of a batch of points, with what their oracles remember."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pliant.optim.point import Point
from pliant.optim.stacking import numbers, stack
from pliant.regions.ball import Ball
from pliant.regions.vertex import Product, Vertex
from pliant.sharding import whole

MEMORY = "oracle"


@dataclass(frozen=True, eq=False)
class Oracle:
    """Answers for points of one kind together.

    Args:
        points: what it answers for.
        ball: of radius 1, for stacked points; None for a region that knows nothing of stacks.
        radii: of the points' regions, shape (points,).
    """

    points: Sequence[Point]
    ball: Ball | None
    radii: Tensor

    @staticmethod
    def of(points: Sequence[Point]) -> Oracle:
        """Return the oracle of points: several only if their regions are balls, alike but for the radius."""
        region = points[0].region
        ball = Ball(region.gauge, region.view.stacked(), 1.0) if isinstance(region, Ball) else None
        return Oracle(points, ball, numbers([point.region.radius for point in points], points[0].like))

    def vertices(self, momentum: Sequence[Tensor], usable: Tensor | None) -> list[Vertex]:
        """Return the vertices for the momentum, one for each tensor of a point, stacked.

        Args:
            momentum: stacked, (points, *shape) for each tensor of a point.
            usable: whether memories may change, a boolean on the device; None: they may.
        """
        head = self.points[0]
        memories = None if head.group["exact"] else [point.states[0].get(MEMORY, {}) for point in self.points]
        found = (
            self._of_one(momentum, memories)
            if self.ball is None
            else self._of_ball(self.ball, momentum, memories, usable)
        )
        return found if all(head.live) else _in_room(head, found)

    def _of_ball(
        self, ball: Ball, momentum: Sequence[Tensor], memories: list[dict[str, Any]] | None, usable: Tensor | None
    ) -> list[Vertex]:
        direction: Any = momentum[0] if ball.arity == 1 else tuple(momentum)
        if memories is None:
            found = ball.vertex(direction)
        else:
            together = {key: stack([memory[key] for memory in memories]) for key in memories[0]}
            found = ball.vertex(direction, together)
            self._remember(memories, together, usable)
        return [part.times(self.radii) for part in found]

    def _of_one(self, momentum: Sequence[Tensor], memories: list[dict[str, Any]] | None) -> list[Vertex]:
        point = self.points[0]
        memory = None if memories is None else memories[0]
        found = point.region.vertex(point.as_point([m[0] for m in momentum]), memory)
        if memory:
            point.states[0][MEMORY] = memory
        dense = [part.dense().unsqueeze(0) for part in found]
        return [Product(x, torch.ones((1,) * x.ndim, dtype=x.dtype, device=x.device), 1, own=True) for x in dense]

    def _remember(self, memories: list[dict[str, Any]], together: dict[str, Tensor], usable: Tensor | None) -> None:
        """Write memories back in place, so that they stay where a captured graph expects them."""
        for key, values in together.items():
            for point, memory, new in zip(self.points, memories, values.unbind(), strict=True):
                old = memory.get(key)
                if old is None or old.shape != new.shape:
                    memory[key] = new.detach().clone()
                else:
                    old.copy_(new if usable is None else torch.where(usable, new, old))
                point.states[0][MEMORY] = memory


def _in_room(point: Point, found: Sequence[Vertex]) -> list[Vertex]:
    """Return the vertices of what moves, where a part of the point has no gradient and rests.

    What rests takes up room in the region; the vertex of the rest has what is left of the radius.
    """
    pairs = zip(point.params, point.live, strict=True)
    still = [torch.zeros(p.shape, dtype=p.dtype, device=p.device) if live else whole(p.detach()) for p, live in pairs]
    room = (1.0 - point.region.value(point.as_point(still)) / point.region.radius).clamp_min(0.0)
    return [part.times(room.reshape(1)) for part in found]
