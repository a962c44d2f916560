"""Points whose tensors are sharded: every process steps its own part; vertices come from those who see the whole."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pliant.optim.batch import Batch
from pliant.optim.exchange import Cut, cut_of, exchange_over, first_entry
from pliant.optim.free import free_step
from pliant.optim.gradient import gradient_of
from pliant.optim.norms import Question, answer
from pliant.optim.oracle import Oracle
from pliant.optim.point import Point
from pliant.optim.precision import FIRST, HALF
from pliant.optim.stacking import numbers
from pliant.optim.whole import Everyone, Owners, Whole, spans_of
from pliant.regions.ball import Ball
from pliant.regions.vertex import Product, Vertex, full_precision
from pliant.regions.views import Singular
from pliant.sharding import is_sharded, local, local_grad, sharded_like

Kind = tuple[Cut, torch.dtype]


@dataclass(frozen=True, eq=False)
class ShardedBatch:
    """Points of sharded tensors that take the step together.

    Args:
        points: at least one.
        oracles: theirs.
        diameters: of their regions, shape (1,) each.
        whole: where their vertices come from.
    """

    points: Sequence[Point]
    oracles: Sequence[Oracle]
    diameters: Sequence[Tensor]
    whole: Whole

    def gradients(self) -> list[Tensor | None]:
        """Return this process's part of all gradients, point after point, None where there is none."""
        return [_local_gradient(p) for point in self.points for p in point.params]

    def step(self, grads: Sequence[Tensor | None], usable: Tensor | None) -> list[Tensor]:
        """Take one step and return the step size of each point. Collective.

        Args:
            grads: what `gradients` returned.
            usable: whether the step counts, alike on all processes; None: it does.
        """
        spans = spans_of([point.params for point in self.points])
        batches = [self._part(n, [grads[i] for i in span]) for n, span in enumerate(spans)]
        given = [batch.gradients() for batch in batches]
        pairs = list(zip(batches, given, strict=True))
        with full_precision(batches[0].points[0].params[0].device):
            momentum = [batch.advance(part, usable) for batch, part in pairs]
            found = self.whole.vertices([[m[0] for m in part] for part in momentum], usable)
            questions = [_question(point) for point in self.points]
            nows = [
                batch.situation(part, m, _vertices(vertices), question)
                for (batch, part), m, vertices, question in zip(pairs, momentum, found, questions, strict=True)
            ]
            for (batch, _), now in zip(pairs, nows, strict=True):
                batch.rule.factor(now)
            answer(questions)
            return [batch.move(part, now, usable)[0] for (batch, part), now in zip(pairs, nows, strict=True)]

    def _part(self, n: int, grads: Sequence[Tensor | None]) -> Batch:
        """Return this process's part of a point, as a batch."""
        point = self.points[n]
        point.prepare()
        triples = zip(point.params, point.states, grads, strict=True)
        parts = [_part_of(p, state, grad, point.group) for p, state, grad in triples]
        own = Point(point.region, point.names, [p for p, _ in parts], [state for _, state in parts], point.group)
        return Batch((own,), self.oracles[n], self.diameters[n])


def sharded_batches(points: Iterable[Point]) -> list[ShardedBatch]:
    """Return points of sharded tensors that have a gradient as batches; every process must have the same points."""
    kinds: dict[Kind | None, list[Point]] = {}
    for point in points:
        if any(point.live):
            kinds.setdefault(_kind(point), []).append(point)
    return [_batch(members, kind) for kind, members in kinds.items()]


def free_step_of_part(p: Tensor, state: dict[str, Any], group: dict[str, Any], usable: Tensor | None) -> None:
    """Take `free_step` on this process's part of a sharded parameter; its state is sharded likewise."""
    grad = _local_gradient(p)
    if grad is None or not is_sharded(p):
        return
    x, inner = _part_of(p, state, grad, group)
    free_step(x, inner, group, usable)
    for key in inner.keys() - state.keys() - {FIRST}:
        state[key] = sharded_like(inner[key], p)


def _part_of(
    p: Tensor, state: dict[str, Any], grad: Tensor | None, group: dict[str, Any]
) -> tuple[Tensor, dict[str, Any]]:
    """Return this process's part of a parameter with its gradient, and of its state; they share memory."""
    place = {}
    if p.dtype in HALF:
        group["precision"].prepare(p, state)  # the part would make it too small
        place = {FIRST: first_entry(p)}
    part = local(p).detach().requires_grad_(grad is not None)
    part.grad = grad
    own = {key: local(value) if isinstance(value, Tensor) else value for key, value in state.items()}
    return part, own | place


def _local_gradient(p: Tensor) -> Tensor | None:
    return None if gradient_of(p) is None else local_grad(p)


def _question(point: Point) -> Question:
    return Question([p for p, live in zip(point.params, point.live, strict=True) if live])


def _vertices(parts: Sequence[Tensor]) -> list[Vertex]:
    return [Product(x.unsqueeze(0), x.new_ones((1,) * (x.ndim + 1)), 1, own=True) for x in parts]


def _batch(points: Sequence[Point], kind: Kind | None) -> ShardedBatch:
    oracles = [Oracle.of([point]) for point in points]
    diameters = [numbers([point.diameter()], point.like) for point in points]
    whole: Whole = Everyone(points, oracles)
    if kind is not None:
        costs = [_cost(point) for point in points]
        whole = Owners(points, oracles, exchange_over(kind[0], [point.params for point in points], costs, kind[1]))
    return ShardedBatch(points, oracles, diameters, whole)


def _kind(point: Point) -> Kind | None:
    """Return what an exchange of points has in common; None: the point is for everyone."""
    cut = cut_of(point.params)
    dtypes = {torch.float32 if p.dtype in HALF else p.dtype for p in point.params}
    simple = len(dtypes) == 1 and all(point.live) and isinstance(point.region, Ball)
    return (cut, dtypes.pop()) if cut is not None and simple else None


def _cost(point: Point) -> float:
    """Return about how many operations an oracle takes: of singular values, entries times rank."""
    entries = float(sum(p.numel() for p in point.params))
    if not isinstance(point.region, Ball) or not isinstance(point.region.view, Singular):
        return entries
    return entries * math.sqrt(point.region.view.count(*[p.shape for p in point.params])) * 4.0
