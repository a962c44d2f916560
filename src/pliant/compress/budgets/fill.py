"""What is left of a budget goes to the atoms that are worth most for their cost."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pliant.compress.budgets.problem import Counts, Problem


def fill(problem: Problem, counts: Sequence[int], limit: float) -> list[int]:
    """Raise counts level by level, most regained score per cost first, until no level fits any more.

    Args:
        problem: gives losses and costs.
        counts: a choice within the limit.
        limit: of the cost.
    """
    filled = list(counts)
    left = limit - problem.cost(filled)
    offers = {index: _offer(problem, filled, index) for index in range(len(problem.knobs))}
    while fitting := {i: offer for i, offer in offers.items() if offer is not None and offer[1] <= left}:
        index = max(fitting, key=lambda i: fitting[i][0])
        filled[index] = fitting[index][2]
        left = limit - problem.cost(filled)
        for other in problem.neighbours[index]:
            offers[other] = _offer(problem, filled, other)
    return filled


def _offer(problem: Problem, counts: Sequence[int], index: int) -> tuple[float, float, int] | None:
    """Return the value for its cost, the cost, and the count of the next level; the last one if that is free."""
    knob = problem.knobs[index]
    now = int(np.searchsorted(knob.levels, counts[index]))
    if now == len(knob.levels) - 1:
        return None
    places: Counts = np.array([now, now + 1, len(knob.levels) - 1])
    here, following, last = problem.costs_along(counts, index, knob.levels[places])
    if last <= here:
        return np.inf, float(last - here), int(knob.levels[-1])
    extra = float(following - here)
    regained = float(knob.losses[now] - knob.losses[now + 1])
    return (regained / extra if extra > 0 else np.inf), extra, int(knob.levels[now + 1])
