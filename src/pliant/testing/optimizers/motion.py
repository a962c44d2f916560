"""Laws of motion: what moves, what does not, and where to."""

from __future__ import annotations

import torch

from pliant.testing.optimizers.case import OptimizerCase, Run
from pliant.testing.optimizers.compare import require_close, require_feasible, require_same
from pliant.testing.violation import require


def weights_move(case: OptimizerCase) -> None:
    """Every parameter that has a gradient moves: most other laws would hold of an optimizer that does nothing."""
    run = case.start()
    before = run.weights()
    still = [i for i, (a, b) in enumerate(zip(before, run.take(1).weights(), strict=True)) if torch.equal(a, b)]
    require(not still, "every parameter with a gradient moves", case, f"parameters {still} at rest", "none")


def iterates_stay_feasible(case: OptimizerCase) -> None:
    """From a feasible start every iterate is feasible: value <= radius for every constrained point, up to rounding."""
    run = case.start()
    for _ in range(2 * case.steps):
        require_feasible(run.take(1), "iterates stay feasible")


def huge_rates_stay_feasible(case: OptimizerCase) -> None:
    """Constrained iterates stay feasible and finite at a learning rate of 1e9, since step sizes are clamped to 1."""
    run = case.start()
    for group in run.optimizer.param_groups:
        if group.get("region") is not None:
            group["lr"] = 1e9
    for _ in range(case.steps):
        require_feasible(run.take(1), "iterates stay feasible at a huge rate")


def huge_and_tiny_gradients_are_legal(case: OptimizerCase) -> None:
    """Finite gradients, however large or small, give feasible and finite iterates of constrained points."""
    for factor in (1e30, 1e-30):
        run = case.start()
        for _ in range(case.steps):
            params = run.gradients().params
            for p in (params[i] for _, members in run.points() for i in members):
                p.grad = p.grad * factor if p.grad is not None else None
            run.optimizer.step()
            require_feasible(run, f"iterates stay feasible for gradients of size {factor:g}")


def rate_zero_moves_nothing(case: OptimizerCase) -> None:
    """At a learning rate of 0 no weight moves, to the bit."""
    run = case.start().having(lr=0.0)
    before = run.weights()
    require_same(before, run.take(2).weights(), "a learning rate of 0 moves nothing", case)


def zero_gradients_are_legal(case: OptimizerCase) -> None:
    """Gradients that are zero leave iterates finite and feasible."""
    run = case.start()
    for _ in range(case.steps):
        _zero(run)
        require_feasible(run, "zero gradients are legal")


def zero_gradients_move_nothing(case: OptimizerCase) -> None:
    """Without momentum to follow, a zero gradient moves no weight: of rules scaled by the gradient, without decay."""
    run = case.start()
    before = run.weights()
    _zero(run)
    require_same(before, run.weights(), "a zero gradient moves nothing", case)


def without_gradient_no_move(case: OptimizerCase) -> None:
    """A parameter whose gradient is None does not move, to the bit, and all points stay feasible."""
    for number in range(len(case.start().params)):
        run = case.start().take(1)
        before = run.weights()[number]
        after = run.take(case.steps, silent={number}).weights()[number]
        require_same([before], [after], f"parameter {number} without gradient does not move", case)
        require_feasible(run, "iterates stay feasible where one has no gradient")


def without_gradient_no_influence(case: OptimizerCase) -> None:
    """Whether a parameter has a gradient changes nothing for parameters that are not one point with it, to the bit."""
    full = case.start().take(case.steps).weights()
    for number in range(len(full)):
        run = case.start()
        neighbours = run.neighbours(number)
        others = [i for i in range(len(full)) if i not in neighbours]
        part = run.take(case.steps, silent={number}).weights()
        law = f"parameter {number} without gradient moves no other"
        require_same([full[i] for i in others], [part[i] for i in others], law, case)


def frozen_weights_do_not_move(case: OptimizerCase) -> None:
    """A parameter frozen after some steps does not move, whatever gradient it still has; the others go on."""
    for number in range(len(case.start().params)):
        silent = case.start().take(1)
        expected = silent.take(case.steps, silent={number}).weights()
        run = case.start().take(1)
        frozen = run.params[number].requires_grad_(False)
        for _ in range(case.steps):
            run.gradients()
            frozen.grad = torch.zeros_like(frozen)  # as zero_grad(set_to_none=False) leaves it
            run.optimizer.step()
        require_same(expected, run.weights(), f"parameter {number}, frozen, is as one without gradient", case)


def empty_steps_leave_no_trace(case: OptimizerCase) -> None:
    """Steps in which no parameter has a gradient, first or in between, change neither weights nor later steps."""
    expected = case.start().take(case.steps).weights()
    run = case.start()
    before = run.weights()
    require_same(before, run.empty().empty().weights(), "a step without gradients moves nothing", case)
    found = run.take(1).empty().take(case.steps - 1).weights()
    require_same(expected, found, "steps without gradients leave no trace", case)


def memory_format_is_ignored(case: OptimizerCase) -> None:
    """Weights and gradients in channels_last order give the same trajectory, up to the rounding of sums."""
    expected = case.start().take(case.steps).weights()
    run = case.start(memory_format=torch.channels_last).take(case.steps)
    require_close(expected, run.weights(), "channels_last changes no step", case)
    require_feasible(run, "iterates stay feasible in channels_last")


def _zero(run: Run) -> None:
    for p in run.params:
        p.grad = torch.zeros_like(p)
    run.optimizer.step()
