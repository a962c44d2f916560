"""Which atoms go, of all that could: two ways to share a budget out over layers."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pliant.compress.budgets.fill import fill
from pliant.compress.budgets.problem import Problem

_GRID = 64  # levels of a knob that the descent looks at; the rest is left to `fill`, which goes atom by atom
_HALVINGS = 50


class BudgetError(ValueError):
    """A budget that cannot be met, or that makes no sense."""


class Allocation(ABC):
    """How a budget is shared out over the layers."""

    @abstractmethod
    def counts(self, problem: Problem, limit: float) -> list[int]:
        """Return how many atoms of each knob stay.

        The cost is within the limit, and one level more of any knob would exceed it.

        Raises:
            BudgetError: if even the smallest choice costs more; `smallest` tells how much.
        """


@dataclass(frozen=True)
class Greedy(Allocation):
    """Again and again the move of least loss per saved cost.

    A move lowers one knob by any number of levels, to where (lost score) / (saved cost) is smallest: a layer that is
    decomposed saves nothing before its rank is small enough to pay. Costs are those of the moment: a filter is worth
    less when the layers around it have shrunk. For costs that do not interact, the result loses at most one move more
    than the best choice does.

    It is the default of all budgets because it did better than `ByFraction` on four small models, judged on their test
    images: that choice has seen them.
    """

    def counts(self, problem: Problem, limit: float) -> list[int]:
        counts = problem.largest
        cost = problem.cost(counts)
        if cost <= limit:  # the smallest choice may cost more: of a small layer, two thin ones take longer
            return counts
        check_reachable(problem, limit)
        moves = [_best_move(problem, counts, index) for index in range(len(problem.knobs))]
        while cost > limit:
            index = min(range(len(moves)), key=lambda i: moves[i][0])
            ratio, target = moves[index]
            if math.isinf(ratio):  # no single move saves: what is left takes several at once
                return fill(problem, problem.smallest, limit)
            counts[index] = target
            cost = problem.cost(counts)
            for other in problem.neighbours[index]:
                moves[other] = _best_move(problem, counts, other)
        return fill(problem, counts, limit)


@dataclass(frozen=True)
class ByFraction(Allocation):
    """The smallest fraction that meets the budget, shared out by the compressor's own scope or rule.

    Filters by default (`PerLayer`) and ranks by default (`EqualFraction`) lose the same share everywhere. What is left
    of the budget then goes, atom by atom, to the best score per cost.
    """

    def counts(self, problem: Problem, limit: float) -> list[int]:
        if problem.cost(problem.largest) <= limit:
            return problem.largest
        check_reachable(problem, limit)
        low, high = 0.0, 1.0
        counts = problem.smallest
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            tried = _snap(problem, middle)
            if problem.cost(tried) <= limit:
                high, counts = middle, tried
            else:
                low = middle
        return fill(problem, counts, limit)


def check_reachable(problem: Problem, limit: float) -> None:
    """Check that the smallest choice is within the limit.

    Raises:
        BudgetError: if not.
    """
    smallest = problem.cost(problem.smallest)
    if smallest > limit:
        raise BudgetError(
            f"the budget must be at least {_text(smallest)}, which is left when every layer is cut as far as it goes, "
            f"found {_text(limit)}; allow more, or lower `minimum`, `round_to` or `ignore`"
        )


def _best_move(problem: Problem, counts: Sequence[int], index: int) -> tuple[float, int]:
    """Return the least loss per saved cost of one knob, infinite if nothing can be saved, and the count to go to."""
    knob = problem.knobs[index]
    now = int(np.searchsorted(knob.levels, counts[index]))
    stride = max(1, len(knob.levels) // _GRID)
    tried = np.arange(now - stride, -1, -stride)
    if now == 0:
        return math.inf, counts[index]
    if len(tried) == 0 or tried[-1] != 0:
        tried = np.append(tried, 0)
    costs = problem.costs_along(counts, index, knob.levels[np.append(tried, now)])
    saved = costs[-1] - costs[:-1]
    lost = np.maximum(knob.losses[tried] - knob.losses[now], 0.0)
    ratios = np.divide(lost, saved, out=np.full(len(tried), math.inf), where=saved > 0)
    best = int(ratios.argmin())
    return float(ratios[best]), int(knob.levels[tried[best]])


def _snap(problem: Problem, fraction: float) -> list[int]:
    """Return the counts of a fraction, each lowered to a level."""
    shares = problem.smallest if problem.shares is None else problem.shares(fraction)
    pairs = zip(problem.knobs, shares, strict=True)
    return [int(knob.levels[max(0, int(np.searchsorted(knob.levels, n, side="right")) - 1)]) for knob, n in pairs]


def _text(cost: float) -> str:
    return f"{cost:,.0f}" if cost >= 1 else f"{cost:.3g}"
