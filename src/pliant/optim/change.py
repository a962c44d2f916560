"""Sharded tensors replaced by a function of the whole of them, each on one process."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from pliant.optim.exchange import Cut, cut_of, exchange_over
from pliant.optim.whole import spans_of
from pliant.sharding import local, put, whole

Work = Callable[[int, list[Tensor]], Sequence[Tensor]]


@torch.no_grad()
def change_wholes(points: Sequence[Sequence[Tensor]], work: Work, costs: Sequence[float] | None = None) -> None:
    """Set tensors to a function of the whole of them, as proximal maps, projections and truncations need it.

    Where tensors are sharded by FSDP2 each point is worked on by one process, and the work is spread over them; tensors
    laid out in another way are gathered by all. Tensors that are not sharded are changed where they are. Collective.

    Args:
        points: the tensors of each point; all processes must give the same, in the same order.
        work: takes the number of a point and its tensors, whole, which it may use up; returns as many new ones.
        costs: about how long the work on each point takes; None: as long as it has entries.
    """
    spread: dict[tuple[Cut, torch.dtype], list[int]] = {}
    for n, point in enumerate(points):
        cut = cut_of(point)
        if cut is not None and len({x.dtype for x in point}) == 1:
            spread.setdefault((cut, point[0].dtype), []).append(n)
        else:
            _change_here(point, work(n, [whole(x).detach().clone() for x in point]))
    for (cut, dtype), members in spread.items():
        weights = [_entries(points[n]) if costs is None else costs[n] for n in members]
        _change_by_owners(cut, dtype, [(n, points[n]) for n in members], work, weights)


def _change_here(point: Sequence[Tensor], new: Sequence[Tensor]) -> None:
    for x, value in zip(point, new, strict=True):
        put(x, value)


def _change_by_owners(
    cut: Cut, dtype: torch.dtype, points: Sequence[tuple[int, Sequence[Tensor]]], work: Work, costs: Sequence[float]
) -> None:
    exchange = exchange_over(cut, [point for _, point in points], costs, dtype)
    tensors = [x for _, point in points for x in point]
    wholes = exchange.to_owners([local(x) for x in tensors])
    new: dict[int, Tensor] = {}
    for (n, _), span in zip(points, spans_of([point for _, point in points]), strict=True):
        if span.start in wholes:
            new |= zip(span, work(n, [wholes.pop(i) for i in span]), strict=True)
    for x, part in zip(tensors, exchange.to_all(new), strict=True):
        local(x).copy_(part)


def _entries(point: Sequence[Tensor]) -> float:
    return float(sum(math.prod(x.shape) for x in point))
