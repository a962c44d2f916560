"""Sharded tensors replaced by a function of the whole of them, each on one process."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from pliant.optim.exchange import Cut, Exchange, cut_of, exchange_over
from pliant.optim.whole import spans_of
from pliant.sharding import local, put, whole

Work = Callable[[int, list[Tensor]], Sequence[Tensor]]


@torch.no_grad()
def change_wholes(
    points: Sequence[Sequence[Tensor]],
    work: Work,
    costs: Sequence[float] | None = None,
    seen: Sequence[Sequence[Tensor]] | None = None,
) -> None:
    """Set tensors to a function of the whole of them, as proximal maps, projections and truncations need it.

    Where tensors are sharded by FSDP2 each point is worked on by one process, and the work is spread over them; tensors
    laid out in another way are gathered by all. Tensors that are not sharded are changed where they are. Collective.

    Args:
        points: the tensors of each point; all processes must give the same, in the same order.
        work: takes the number of a point, its tensors and those it only sees, whole, all of which it may use up;
            returns new tensors of the point.
        costs: about how long the work on each point takes; None: as long as it has entries.
        seen: tensors that the work on each point looks at and that stay as they are; None: none.
    """
    behind: Sequence[Sequence[Tensor]] = [()] * len(points) if seen is None else seen
    shown = [(*point, *more) for point, more in zip(points, behind, strict=True)]
    spread: dict[tuple[Cut, torch.dtype], list[int]] = {}
    for n, point in enumerate(shown):
        cut = cut_of(point)
        if cut is not None and len({x.dtype for x in point}) == 1:
            spread.setdefault((cut, point[0].dtype), []).append(n)
        else:
            _change_here(points[n], work(n, [whole(x).detach().clone() for x in point]))
    for (cut, dtype), members in spread.items():
        weights = [_entries(points[n]) if costs is None else costs[n] for n in members]
        parts, more = [points[n] for n in members], [shown[n] for n in members]
        # Equal costs make equal owners, there and back.
        there, back = exchange_over(cut, more, weights, dtype), exchange_over(cut, parts, weights, dtype)
        _change_by_owners(there, back, parts, more, partial(_numbered, work, members))


def _change_here(point: Sequence[Tensor], new: Sequence[Tensor]) -> None:
    for x, value in zip(point, new, strict=True):
        put(x, value)


def _numbered(work: Work, members: Sequence[int], n: int, tensors: list[Tensor]) -> Sequence[Tensor]:
    return work(members[n], tensors)


def _change_by_owners(
    there: Exchange, back: Exchange, points: Sequence[Sequence[Tensor]], shown: Sequence[Sequence[Tensor]], work: Work
) -> None:
    wholes = there.to_owners([local(x) for point in shown for x in point])
    new: dict[int, Tensor] = {}
    for n, (span, results) in enumerate(zip(spans_of(shown), spans_of(points), strict=True)):
        if span.start in wholes:
            new |= zip(results, work(n, [wholes.pop(i) for i in span]), strict=True)
    tensors = [x for point in points for x in point]
    for x, part in zip(tensors, back.to_all(new), strict=True):
        local(x).copy_(part)


def _entries(point: Sequence[Tensor]) -> float:
    return float(sum(math.prod(x.shape) for x in point))
