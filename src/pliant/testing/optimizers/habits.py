"""Laws of habit: what every torch optimizer does."""

from __future__ import annotations

import math

import torch

from pliant.testing.optimizers.case import OptimizerCase
from pliant.testing.optimizers.compare import require_same
from pliant.testing.violation import require


def gradients_are_untouched(case: OptimizerCase) -> None:
    """A step reads gradients and does not write to them."""
    run = case.start().take(1).gradients()
    before = [p.grad.clone() for p in run.params if p.grad is not None]
    run.optimizer.step()
    require_same(before, [p.grad for p in run.params if p.grad is not None], "gradients are untouched", case)


def random_state_is_untouched(case: OptimizerCase) -> None:
    """A step leaves the global random state alone."""
    run = case.start()
    before = torch.get_rng_state()
    run.take(2)
    require_same([before], [torch.get_rng_state()], "the global random state is untouched", case)


def closures_are_called_once(case: OptimizerCase) -> None:
    """`step(closure)` calls the closure once with gradients enabled, returns its loss, and steps as without closure."""
    run, calls = case.start(), []

    def closure() -> float:
        calls.append(torch.is_grad_enabled())
        run.gradients()
        return 0.25

    losses = [run.optimizer.step(closure) for _ in range(case.steps)]
    require(losses == [0.25] * case.steps, "step returns the closure's loss", case, losses, [0.25] * case.steps)
    require(calls == [True] * case.steps, "the closure runs once a step, gradients enabled", case, calls, "True each")
    require_same(case.start().take(case.steps).weights(), run.weights(), "a closure changes no step", case)


def empty_closures_move_nothing(case: OptimizerCase) -> None:
    """A closure after which no parameter has a gradient moves nothing; its loss is returned all the same."""
    run = case.start()
    before = run.weights()
    loss = run.optimizer.step(lambda: 0.5)
    require(loss == 0.5, "step returns the loss of an empty closure", case, loss, 0.5)
    require_same(before, run.weights(), "an empty closure moves nothing", case)


def added_groups_are_alone(case: OptimizerCase) -> None:
    """Groups that `add_param_group` adds mid-run step as in a run of their own, and change nothing for the others."""
    run, other = case.start().take(1), case.elsewhere().start()
    old = len(run.params)
    added = [dict(group) for group in other.optimizer.param_groups]
    for group in added:
        run.optimizer.add_param_group(group)
    for _ in range(case.steps - 1):
        run.gradients()
        for p, q in zip(run.params[old:], other.gradients().params, strict=True):
            p.grad = q.grad
        run.optimizer.step()
    expected = case.start().take(case.steps).weights()
    alone = case.elsewhere().start().take(case.steps - 1).weights()
    require_same(expected, run.weights()[:old], "an added group changes nothing for the others", case)
    require_same(alone, run.weights()[old:], "an added group steps as if alone", case)


def zero_grad_clears(case: OptimizerCase) -> None:
    """`zero_grad()` leaves no gradient; `zero_grad(set_to_none=False)` leaves zeros."""
    run = case.start().gradients()
    run.optimizer.zero_grad(set_to_none=False)
    largest = max(float(p.grad.abs().max()) if p.grad is not None else math.inf for p in run.params)
    require(largest == 0.0, "zero_grad(set_to_none=False) leaves zeros", case, largest, 0.0)
    run.optimizer.zero_grad()
    left = sum(p.grad is not None for p in run.params)
    require(left == 0, "zero_grad leaves no gradient", case, f"{left} gradients", 0)


def repr_names_the_class(case: OptimizerCase) -> None:
    """`repr` names the class, before and after steps."""
    for run in (case.start(), case.start().take(1)):
        name = type(run.optimizer).__name__
        require(name in repr(run.optimizer), "repr names the class", case, repr(run.optimizer), name)
