"""From a recipe's `method` section to an optimizer, its schedule and its plan."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from pliant.optim import (
    SFW,
    DiameterScaled,
    FastGradientScaled,
    GradientScaled,
    Raw,
    Shrinkage,
    StepRule,
    steps,
)
from pliant.structure import Constraint, Diameter, Fixed, Free, InitScaled, Joined, Plan, RadiusRule, Rule
from pliant.structure.matricise import CONVOLUTIONS, TRANSPOSED
from pliant.structure.norms import NORM_LAYERS
from pliant.training import recipe_method as section
from pliant.training import schedules

if TYPE_CHECKING:
    from torch import Tensor
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler

SCHEDULES: dict[str, schedules.Schedule] = {
    "constant": schedules.Constant(),
    "linear": schedules.Linear(),
    "cosine": schedules.Cosine(),
}
PROFILES: dict[str, steps.Profile] = {
    "constant": steps.Constant(),
    "linear": steps.Linear(),
    "cosine": steps.Cosine(),
}
STEPS: dict[str, StepRule] = {
    "gradient": GradientScaled(),
    "fast-gradient": FastGradientScaled(),
    "diameter": DiameterScaled(),
    "raw": Raw(),
}

LAYERS: dict[str, tuple[type[nn.Module], ...]] = {
    "any": (),
    "convolution": (*CONVOLUTIONS, *TRANSPOSED),
    "linear": (nn.Linear,),
    "norm": NORM_LAYERS,
}


@dataclass(frozen=True)
class Method:
    """What moves the weights.

    Args:
        optimizer: over all trainable parameters.
        scheduler: to be stepped after every batch.
        plan: what is constrained how; None for plain SGD.
        scheduled: the first parameter group that the schedule drives.
    """

    optimizer: Optimizer
    scheduler: LRScheduler
    plan: Plan | None
    scheduled: int

    def lr(self) -> float:
        """Return the learning rate of the first group that the schedule drives, as it is now."""
        return float(self.optimizer.param_groups[self.scheduled]["lr"])

    def shrinkage(self) -> float | None:
        """Return the sum of the step sizes so far, or None where nothing is constrained; waits for the device."""
        return self.optimizer.total_shrinkage() if isinstance(self.optimizer, SFW) else None

    def kept(self) -> float | None:
        """Return the share of the initial weights that is left, or None; waits for the device."""
        return self.optimizer.kept_share() if isinstance(self.optimizer, SFW) else None


def build_method(recipe: section.Method, model: nn.Module, *, example: Tensor, total_steps: int) -> Method:
    """Build the optimizer of a recipe; no weight is touched.

    Args:
        recipe: the method section.
        model: whose parameters are trained.
        example: what the model can be called with.
        total_steps: optimizer steps of the whole run.
    """
    if isinstance(recipe, section.SGDMethod):
        sgd = torch.optim.SGD(
            model.parameters(), lr=recipe.lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay
        )
        return _scheduled(sgd, recipe.schedule, None, total_steps)
    plan = build_plan(recipe, model, example)
    rule = _step_rule(recipe.step, total_steps)
    sfw = SFW(plan.param_groups(), lr=recipe.lr, momentum=recipe.momentum, step_rule=rule)
    return _scheduled(sfw, recipe.schedule, plan, total_steps)


def build_plan(recipe: section.SFWMethod, model: nn.Module, example: Tensor) -> Plan:
    """Build the plan of a recipe; what the recipe leaves out is the plan's own default."""
    if recipe.rules is not None:
        return Plan.from_rules(model, [_rule(rule) for rule in recipe.rules])
    given: dict[str, Any] = {"k": recipe.k}
    if recipe.radius is not None:
        given["radius"] = _radius(recipe.radius)
    if recipe.norms is not None:
        given["norms"] = _norms(recipe.norms)
    if recipe.rest is not None:
        given["rest"] = _treatment(recipe.rest)
    if recipe.plan == "filters":
        return Plan.for_filters(model, example=example, coupled=recipe.coupled, **given)
    if recipe.plan == "low-rank":
        return Plan.for_low_rank(model, **given)
    return Plan.for_unstructured(model, **given)


def _rule(rule: section.RuleSection) -> Rule:
    return Rule(_treatment(rule.treat), name=rule.name, modules=LAYERS[rule.layers], local=rule.local)


def _scheduled(optimizer: Optimizer, name: str, plan: Plan | None, total_steps: int) -> Method:
    profiled = [_has_profile(group) for group in optimizer.param_groups]
    rules = [SCHEDULES["constant" if own else name] for own in profiled]
    scheduler = schedules.scheduler_for(optimizer, rules, total_steps)
    return Method(optimizer, scheduler, plan, profiled.index(False) if False in profiled else 0)


def _has_profile(group: dict[str, Any]) -> bool:
    return group.get("region") is not None and isinstance(group["step_rule"], Shrinkage)


def _step_rule(step: section.Step, total_steps: int) -> StepRule:
    if isinstance(step, section.ShrinkageStep):
        return Shrinkage(step.total, steps=total_steps, profile=PROFILES[step.profile])
    return STEPS[step.type]


def _radius(radius: section.Radius) -> RadiusRule:
    if isinstance(radius, section.FixedRadius):
        return Fixed(radius.radius)
    return Diameter(radius.diameter) if isinstance(radius, section.DiameterRadius) else InitScaled(radius.scale)


def _norms(given: section.Norms) -> Constraint | Free | Joined:
    return Joined() if isinstance(given, section.JoinedTreatment) else _treatment(given)


def _treatment(given: section.Rest) -> Constraint | Free:
    if isinstance(given, section.FreeTreatment):
        return Free(lr=given.lr, momentum=given.momentum, weight_decay=given.weight_decay)
    shape = {name: value for name, value in (("k", given.k), ("p", given.p)) if value is not None}
    ball = section.BALLS[given.ball](**shape, radius=1.0)
    own = {} if given.radius is None else {"radius": _radius(given.radius)}
    return Constraint(ball.gauge, type(ball.view), **own)
