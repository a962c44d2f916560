"""What every loop needs: the optimizer and its schedule before, numbers on the way, a sweep at the end."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from pliant.compress import Compressor, Row, sweep
from pliant.methods import CrAM, RandomCut
from pliant.methods.outer import innermost
from pliant.optim import SFW, Shrinkage
from pliant.optim.steps import Linear as LinearProfile
from pliant.optim.steps import Profile
from pliant.structure import Plan
from pliant.structure.example import Example
from pliant.training.schedules import Constant, Linear, Schedule, scheduler_for


def shrinking_sfw(
    plan: Plan,
    *,
    steps: int,
    total: float,
    momentum: float = 0.9,
    profile: Profile | None = None,
    free: Schedule | None = None,
) -> tuple[SFW, LRScheduler]:
    """Return `SFW` under the `Shrinkage` rule for a run of known length, and the schedule of its free groups.

    The weights are scaled into their regions. Constrained groups follow the rule's profile and need no schedule.

    Args:
        plan: of the model.
        steps: optimizer steps of the whole run; the scheduler is stepped as often.
        total: sum of the step sizes over the run; about ``exp(-total)`` of the initial weights is left. A run of so few
            steps that a step size would exceed 1, such as a trial run of one batch, gets less, with a warning.
        momentum: of constrained groups, in [0, 1).
        profile: how the total is spread; linear by default.
        free: schedule of the learning rates of free groups; linear to zero by default.

    Raises:
        ValueError: if a number is out of range.
    """
    rule = _rule(total, steps, profile or LinearProfile())
    plan.make_feasible()
    optimizer = SFW(plan, lr=1.0, momentum=momentum, step_rule=rule)
    schedules = [(free or Linear()) if group["region"] is None else Constant() for group in optimizer.param_groups]
    return optimizer, scheduler_for(optimizer, schedules, steps)


def _rule(total: float, steps: int, profile: Profile) -> Shrinkage:
    """Return the rule of a run, with as much of the total as its steps can have."""
    most = 1.0 / profile.peak(max(steps, 1))
    if most < total < math.inf:
        warnings.warn(
            f"total={total:g} over steps={steps} asks for a step size above 1: total is {most:g} in this run. That "
            "will do to try whether the code runs; otherwise lower total or train for more steps",
            stacklevel=3,
        )
        total = most
    return Shrinkage(total, steps=steps, profile=profile)


def progress(optimizer: Optimizer) -> dict[str, float]:
    """Return what is worth logging of `SFW`, alone or inside another one, or nothing; waits for the device.

    Returns:
        "pliant/shrinkage", the sum of the step sizes so far; "pliant/kept", the share of the initial weights left;
        "pliant/fullness", the largest norm over its radius: at most 1, up to rounding, while all is feasible.
    """
    found = innermost(unwrapped(optimizer))
    if not isinstance(found, SFW):
        return {}
    return {
        "pliant/shrinkage": found.total_shrinkage(),
        "pliant/kept": found.kept_share(),
        "pliant/fullness": fullness(found),
    }


@torch.no_grad()
def fullness(optimizer: SFW) -> float:
    """Return the largest norm over its radius among all constrained points; 0 without any. No gradient is needed."""
    points = [point for g in optimizer.param_groups if g["region"] is not None for point in optimizer.points(g)]
    return max((float(p.region.value(p.as_point(list(p.params)))) / p.region.radius for p in points), default=0.0)


def unwrapped(optimizer: Optimizer) -> Optimizer:
    """Return the optimizer inside wrappers that keep it as `optimizer`, as those of accelerate do."""
    while isinstance(inner := getattr(optimizer, "optimizer", None), Optimizer):
        optimizer = inner
    return optimizer


def random_cuts(optimizers: Iterable[Optimizer | None]) -> list[RandomCut]:
    """Return those optimizers, out of their wrappers, that cut the model before every step."""
    return [optimizer for optimizer in _unwrapped(optimizers) if isinstance(optimizer, RandomCut)]


def refuse_accumulation(optimizers: Iterable[Optimizer | None], option: str) -> None:
    """Refuse optimizers that call the closure of a loop twice, where it evaluates the last of several batches alone.

    Args:
        optimizers: of the loop, in their wrappers.
        option: of the loop, as it was found, such as "accumulate_grad_batches=4".

    Raises:
        ValueError: if there is one.
    """
    if any(isinstance(optimizer, CrAM) for optimizer in _unwrapped(optimizers)):
        raise ValueError(
            "CrAM takes both of its gradients from the closure of the loop, which evaluates the last batch of a step "
            f"alone, found {option}: take larger batches without accumulation, a closure of your own that clears the "
            "gradients and evaluates all batches of a step, or RandomCut, which accumulates"
        )


def _unwrapped(optimizers: Iterable[Optimizer | None]) -> list[Optimizer]:
    return [unwrapped(optimizer) for optimizer in optimizers if optimizer is not None]


@dataclass
class Sweep:
    """Cuts of a trained model: how they are made, and what came out.

    Args:
        compressor: what is cut and how.
        fractions: shares of the atoms to remove.
        example: what the model can be called with.
        evaluate: called with a cut model.
        calibrate: batches for BatchNorm recalibration, or None.
        rows: filled by `run`.
    """

    compressor: Compressor
    fractions: Sequence[float]
    example: Example
    evaluate: Callable[[nn.Module], float]
    calibrate: Iterable[Example] | None = None
    rows: list[Row] = field(default_factory=list)

    def run(self, model: nn.Module) -> list[Row]:
        """Cut a model, which is left as it is, and keep the rows."""
        self.rows[:] = sweep(
            model,
            self.compressor,
            self.fractions,
            example=self.example,
            evaluate=self.evaluate,
            calibrate=self.calibrate,
        )
        return self.rows
