"""Stochastic Frank-Wolfe under a plan."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, final

from pydantic import Field, model_validator

from pliant.methods.claim import Claim
from pliant.optim import SFW
from pliant.structure import Plan
from pliant.training.methods.built import Method, Schedule, scheduled
from pliant.training.methods.section import OptimizerSection, Scene
from pliant.training.methods.step_rules import ShrinkageStep, Step, step_rule_of
from pliant.training.methods.treatments import (
    JoinedTreatment,
    Norms,
    Radius,
    Rest,
    RuleSection,
    norms_of,
    radius_of,
    rule_of,
    treatment_of,
)
from pliant.training.recipe_section import K, Momentum, NonNegative

if TYPE_CHECKING:
    from torch import Tensor, nn


@final
class SFWMethod(OptimizerSection):
    """Stochastic Frank-Wolfe. What is left out (null) is the plan's own default.

    `start` multiplies the constrained weights before the first step.

    `k`, `radius`, `norms` and `rest` shape the presets; under `plan: rules` a list of rules says everything.
    `coupled` makes one atom of all that filter pruning removes with a channel, in every layer, for `plan: filters`.
    `schedule` drives the learning rate of every group, except of those stepped by `shrinkage`: their profile is it.
    """

    type: Literal["sfw"]
    plan: Literal["filters", "low-rank", "unstructured", "rules"]
    k: K = 0.3
    radius: Radius | None = None
    norms: Norms | None = None
    rest: Rest | None = None
    rules: list[RuleSection] | None = None
    coupled: bool = False
    lr: NonNegative = 1.0
    momentum: Momentum = 0.9
    start: Annotated[float, Field(gt=0, le=1)] = 1.0
    step: Step = ShrinkageStep(type="shrinkage")
    schedule: Schedule = "linear"

    @model_validator(mode="after")
    def _rules_stand_alone(self) -> Self:
        if (self.plan == "rules") != (self.rules is not None):
            raise ValueError(f"rules and plan: rules go together, found plan: {self.plan}")
        preset = {"k": self.k, "radius": self.radius, "norms": self.norms, "rest": self.rest}
        given = [name for name, value in preset.items() if value != type(self).model_fields[name].default]
        if self.rules is not None and given:
            raise ValueError(f"under plan: rules each rule says its own treatment; leave out {', '.join(given)}")
        return self

    @model_validator(mode="after")
    def _joined_needs_filters(self) -> Self:
        if isinstance(self.norms, JoinedTreatment) and self.plan != "filters":
            raise ValueError(f"norms of type joined need plan: filters, found plan: {self.plan}")
        return self

    @model_validator(mode="after")
    def _coupled_needs_filters(self) -> Self:
        if self.coupled and self.plan != "filters":
            raise ValueError(f"coupled: true needs plan: filters, found plan: {self.plan}")
        if self.coupled and isinstance(self.norms, JoinedTreatment):
            raise ValueError("coupled: true joins norm layers by itself; leave out norms of type joined")
        return self

    def claim(self) -> Claim:
        """Any ratio."""
        return Claim.ANY_RATIO

    def build(self, scene: Scene) -> Method:
        """Build the plan and SFW over its groups."""
        plan = build_plan(self, scene.model, scene.example)
        rule = step_rule_of(self.step, scene.steps)
        sfw = SFW(plan, lr=self.lr, momentum=self.momentum, step_rule=rule)
        return scheduled(scene.model, sfw, self.schedule, scene.steps, plan=plan, start=self.start)


def build_plan(recipe: SFWMethod, model: nn.Module, example: Tensor) -> Plan:
    """Build the plan of a recipe; what the recipe leaves out is the plan's own default."""
    if recipe.rules is not None:
        return Plan.from_rules(model, [rule_of(rule) for rule in recipe.rules])
    given: dict[str, Any] = {"k": recipe.k}
    if recipe.radius is not None:
        given["radius"] = radius_of(recipe.radius)
    if recipe.norms is not None:
        given["norms"] = norms_of(recipe.norms)
    if recipe.rest is not None:
        given["rest"] = treatment_of(recipe.rest)
    if recipe.plan == "filters":
        return Plan.for_filters(model, example=example, coupled=recipe.coupled, **given)
    if recipe.plan == "low-rank":
        return Plan.for_low_rank(model, **given)
    return Plan.for_unstructured(model, **given)
