"""Points of one kind, which take the Frank-Wolfe step together: their tensors are stacked along a first dimension."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pliant.optim.gradient import gradient_of
from pliant.optim.oracle import Oracle
from pliant.optim.point import Point
from pliant.optim.precision import HALF
from pliant.optim.stacking import numbers, stack, unstack
from pliant.optim.steps import Situation, StepRule, WholeNorms
from pliant.regions.ball import Ball
from pliant.regions.vertex import Vertex, full_precision

# Stacking copies tensors, which pays where the number of operations costs more than their size.
SMALL = {"cpu": 2**16, "cuda": 2**20}


@dataclass(frozen=True, eq=False)
class Batch:
    """Points whose tensors, step rule and momentum are alike, with one gradient or none for each tensor.

    Args:
        points: at least one.
        oracle: their regions'.
        diameters: of the regions, shape (points,).
    """

    points: Sequence[Point]
    oracle: Oracle
    diameters: Tensor

    @staticmethod
    def of(points: Sequence[Point]) -> Batch:
        """Return points of one kind as a batch."""
        return Batch(points, Oracle.of(points), numbers([point.diameter() for point in points], points[0].like))

    def gradients(self) -> list[Tensor | None]:
        """Return the gradients, (points, *shape) for each tensor of a point, None where there is none."""
        grads = [[gradient_of(point.params[j]) for point in self.points] for j in range(self._arity)]
        return [None if any(g is None for g in part) else stack([g for g in part if g is not None]) for part in grads]

    def step(self, grads: Sequence[Tensor | None], usable: Tensor | None) -> list[Tensor]:
        """Take one step and return the step size of each point.

        Args:
            grads: what `gradients` returned.
            usable: whether the step counts, a boolean on any device; None: it does.
        """
        usable = ready(self.points, usable)
        with full_precision(self.points[0].params[0].device):
            momentum = self.advance(grads, usable)
            now = self.situation(grads, momentum, self.oracle.vertices(momentum, usable))
            return self.move(grads, now, usable)

    def advance(self, grads: Sequence[Tensor | None], usable: Tensor | None) -> list[Tensor]:
        """Update the momentum and return it, (points, *shape) for each tensor of a point."""
        return [self._advance(j, grad, usable) for j, grad in enumerate(grads)]

    def situation(
        self,
        grads: Sequence[Tensor | None],
        momentum: Sequence[Tensor],
        found: Sequence[Vertex],
        whole: WholeNorms | None = None,
    ) -> Situation:
        """Return what the step rule looks at.

        Args:
            grads: what `gradients` returned.
            momentum: what `advance` returned.
            found: the vertices, one for each tensor of a point.
            whole: as of `Situation`.
        """
        moving = [j for j, grad in enumerate(grads) if grad is not None]
        return Situation(
            [self._weights(j) for j in moving],
            [found[j] for j in moving],
            [momentum[j] for j in moving],
            self.diameters,
            stack([point.states[0]["steps"] for point in self.points]),
            whole,
        )

    def move(self, grads: Sequence[Tensor | None], now: Situation, usable: Tensor | None) -> list[Tensor]:
        """Take the weights toward their vertices and return the step size of each point."""
        moving = [j for j, grad in enumerate(grads) if grad is not None]
        alpha = step_sizes(self.points, now, usable)
        for j, x, move in zip(moving, now.weights, now.moves, strict=True):
            move.lerp_into(x, alpha)
            self._put_back(j, x)
        return list(alpha.unbind())

    @property
    def rule(self) -> StepRule:
        """How far the points go."""
        rule: StepRule = self.points[0].group["step_rule"]
        return rule

    @property
    def _arity(self) -> int:
        return len(self.points[0].params)

    def _advance(self, j: int, grad: Tensor | None, usable: Tensor | None) -> Tensor:
        """Update the momentum and return it; zero for a tensor without gradient, so that it chooses no vertex."""
        if grad is None:
            return stack([torch.zeros_like(point.params[j]) for point in self.points])
        buffers = [point.states[j]["momentum_buffer"] for point in self.points]
        new = advance(stack(buffers), grad, self.points[0].group, usable)
        unstack(new, buffers)
        return new

    def _weights(self, j: int) -> Tensor:
        params = [point.params[j].detach() for point in self.points]
        if params[0].dtype not in HALF:
            return stack(params)
        return stack([point.precision.load(p, point.states[j]) for point, p in zip(self.points, params, strict=True)])

    def _put_back(self, j: int, x: Tensor) -> None:
        params = [point.params[j] for point in self.points]
        if params[0].dtype not in HALF:
            unstack(x, params)
            return
        for point, p, new in zip(self.points, params, x.unbind(), strict=True):
            state = point.states[j]
            if "master" in state and len(params) > 1:
                state["master"].copy_(new)
            point.precision.store(p, new, state)


def ready(points: Sequence[Point], usable: Tensor | None) -> Tensor | None:
    """Prepare the states of points, which are on one device, and return there whether the step counts."""
    for point in points:
        point.prepare()
    return None if usable is None else usable.to(points[0].params[0].device, non_blocking=True)


def advance(momentum: Tensor, grad: Tensor, group: dict[str, Any], usable: Tensor | None) -> Tensor:
    """Return the momentum after the step, in place.

    Args:
        momentum: before it.
        grad: of the same shape.
        group: momentum and dampening.
        usable: whether the step counts, a boolean on the device; None: it does.
    """
    if usable is not None:
        grad = torch.where(usable, grad, 0.0)
    fresh = grad if group["dampening"] == 0.0 else grad * (1.0 - group["dampening"])
    if usable is None:
        return torch.add(fresh, momentum, alpha=group["momentum"], out=momentum)
    return torch.where(usable, torch.add(fresh, momentum, alpha=group["momentum"]), momentum, out=momentum)


def step_sizes(points: Sequence[Point], now: Situation, usable: Tensor | None) -> Tensor:
    """Return how far points with the same step rule go, in [0, 1], shape (points,).

    Args:
        points: at least one.
        now: what the rule looks at.
        usable: as of `advance`.
    """
    rule: StepRule = points[0].group["step_rule"]
    factor = rule.factor(now)
    rates = [point.group["lr"] for point in points]
    if any(isinstance(rate, Tensor) for rate in rates):
        like = now.index
        rate = torch.stack([_scalar(rate, like) for rate in rates])
    else:
        rate = numbers(rates, now.index)
    alpha = (rate * factor).to(now.index.dtype).clamp(0.0, 1.0)
    return alpha if usable is None else torch.where(usable, alpha, 0.0)


def batches(points: Iterable[Point], *, merge: bool | None) -> list[Batch]:
    """Return points that have a gradient as batches.

    Args:
        points: any.
        merge: whether points of one kind go together; None: small ones do.
    """
    kinds: dict[Any, list[Point]] = {}
    for number, point in enumerate(points):
        if any(point.live):
            together = merge is not False and all(point.live) and (merge or _small(point))
            kind = _kind(point, point.region) if together and isinstance(point.region, Ball) else number
            kinds.setdefault(kind, []).append(point)
    return [Batch.of(tuple(members)) for members in kinds.values()]


def _small(point: Point) -> bool:
    return all(p.numel() <= SMALL.get(p.device.type, SMALL["cuda"]) for p in point.params)


def _kind(point: Point, region: Ball) -> Any:  # noqa: ANN401  (anything hashable)
    group, first = point.group, point.states[0]
    grads = zip(point.params, map(gradient_of, point.params), strict=True)
    forms = tuple((p.shape, p.dtype, p.device, grad.dtype) for p, grad in grads if grad is not None)
    memory = tuple((key, value.shape) for key, value in first.get("oracle", {}).items())
    rates = (group["momentum"], group["dampening"], group["exact"], group["precision"])
    return (region.gauge, region.view, group["step_rule"], rates, forms, memory)


def _scalar(value: Tensor | float, like: Tensor) -> Tensor:
    if isinstance(value, Tensor):
        return value.reshape(()).to(like, non_blocking=True)
    return torch.full((), value, dtype=like.dtype, device=like.device)
