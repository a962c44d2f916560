"""From a model and a budget to the counts that stay."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from pliant.compress.budgets.allocation import BudgetError
from pliant.compress.budgets.budget import Budget
from pliant.compress.budgets.problem import Problem
from pliant.compress.budgets.record import BudgetRecord
from pliant.compress.budgets.scene import Scene
from pliant.compress.budgets.whole import staying

_TRIES = 8
_EQUAL = 1e-12  # of the cost before the cut: rounding of seconds; counts are exact


@dataclass(frozen=True)
class Solution:
    """How many atoms of each knob stay, and what that costs."""

    counts: list[int]
    record: BudgetRecord


def solve(scene: Scene, budget: Budget, build: Callable[[Sequence[int]], nn.Module] | None = None) -> Solution:
    """Return how many atoms of each knob stay.

    Args:
        scene: the model and what can be chosen.
        budget: to be met.
        build: returns the smaller model with such counts, where the terms of the scene may miss a part of its cost: the
            limit that they are given is then moved until what is counted meets the budget.

    Raises:
        BudgetError: if the budget cannot be met.
    """
    dense = budget.measure(scene.model, scene.example)
    free = Problem(scene.knobs, budget.terms(scene))
    problem = Problem(free.knobs, free.terms, dense - free.cost(free.largest), scene.shares)
    measure = None if build is None else lambda counts: budget.measure(build(counts), scene.example)
    return solution(problem, budget, dense, scene.skipped, measure)


def solution(
    problem: Problem,
    budget: Budget,
    dense: float,
    skipped: Mapping[str, str],
    measure: Callable[[Sequence[int]], float] | None = None,
) -> Solution:
    """Return how many atoms of each knob stay.

    Args:
        problem: what can be chosen.
        budget: to be met.
        dense: the cost before the cut.
        skipped: layer name -> why nothing of it can be chosen.
        measure: returns what such counts really cost, where the problem may miss a part of it: the limit that it is
            given is then moved until what is measured meets the budget.

    Raises:
        BudgetError: if the budget cannot be met.
    """
    limit = aim = budget.limit(dense)
    best: tuple[list[int], float] | None = None
    for _ in range(_TRIES):
        try:
            counts = counts_within(problem, budget, aim, skipped)
        except BudgetError:
            if best is None:
                raise
            break
        predicted = problem.cost(counts)
        reached = predicted if measure is None else measure(counts)
        missed = reached - predicted
        if abs(missed) <= _EQUAL * dense and aim <= limit:
            return Solution(counts, BudgetRecord.of(budget, dense, predicted))
        if reached <= limit:
            best = counts, reached
        if aim == limit - missed:
            break
        aim = limit - missed
    if best is None:
        raise BudgetError(f"{budget} must leave more room: no choice within it was found{staying(skipped)}")
    return Solution(best[0], BudgetRecord.of(budget, dense, best[1]))


def counts_within(problem: Problem, budget: Budget, limit: float, skipped: Mapping[str, str]) -> list[int]:
    """Return how many atoms of each knob stay, shared out as a budget says.

    Args:
        problem: what can be chosen.
        budget: to be met.
        limit: the largest cost.
        skipped: layer name -> why nothing of it can be chosen.

    Raises:
        BudgetError: if even the smallest choice costs more; it says what had to stay.
    """
    try:
        return budget.share_out().counts(problem, limit)
    except BudgetError as error:
        raise BudgetError(f"{budget}: {error}{staying(skipped)}") from error
