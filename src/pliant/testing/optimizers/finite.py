"""Laws of finiteness: gradients that are NaN or infinite do no harm."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pliant.testing.optimizers.case import OptimizerCase, Run
from pliant.testing.optimizers.compare import require_close, require_same, same
from pliant.testing.violation import require


def skipped_steps_change_nothing(case: OptimizerCase) -> None:
    """Under `torch.amp.GradScaler` a step on infinite gradients changes nothing; others are as without it."""
    run = case.start()
    scaler = torch.amp.GradScaler("cpu", init_scale=16.0)
    for step in range(case.steps):
        if step in {0, 2}:
            before = run.snapshot()
            _scaled_step(run, scaler, poison=math.inf)
            require(same(before, run.snapshot()), "a skipped step changes nothing", case, "changes", "none")
            run.index -= 1
        _scaled_step(run, scaler)
    expected = case.start().take(case.steps).weights()
    require_close(expected, run.weights(), "GradScaler changes no step", case)


def nonfinite_gradients_touch_nothing(case: OptimizerCase) -> None:
    """A gradient with one NaN or infinite entry raises an `ArithmeticError` that names the parameter, or is left out.

    In either case neither weights nor state change, to the bit, and the run goes on as if nothing had happened.
    """
    expected = case.start().take(case.steps).weights()
    for number, poison in [(i, x) for i in range(len(expected)) for x in (math.nan, math.inf, -math.inf)]:
        run = case.start().take(1)
        before, name = run.snapshot(), run.names[number]
        _poison(run.gradients().params[number], poison)
        try:
            run.optimizer.step()
        except ArithmeticError as error:
            require(name in str(error), "the error names the parameter", case, str(error), name)
        law = f"{poison} in the gradient of parameter {number} touches nothing"
        require(same(before, run.snapshot()), law, case, "changes", "none")
        run.index -= 1
        require_same(expected, run.take(case.steps - 1).weights(), f"{law} later either", case)


def _poison(p: Tensor, number: float) -> None:
    if p.grad is not None:
        p.grad[(-1,) * p.ndim] = number


def _scaled_step(run: Run, scaler: torch.amp.GradScaler, poison: float | None = None) -> None:
    factor = scaler.scale(torch.ones(()))
    for p in run.gradients().params:
        p.grad = p.grad * factor if p.grad is not None else None
    if poison is not None:
        _poison(run.params[-1], poison)
    scaler.step(run.optimizer)
    scaler.update()
