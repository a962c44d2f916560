"""The `method` section of a recipe: plain SGD, or Stochastic Frank-Wolfe under a plan."""

from __future__ import annotations

import inspect
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from pliant.regions import CATALOGUE
from pliant.training.recipe_section import K, Momentum, NonNegative, Positive, Section

Schedule = Literal["constant", "linear", "cosine"]
_SUFFIX = "-ball"
BALLS = {name.removesuffix(_SUFFIX): ball for name, ball in CATALOGUE.items()}


class FixedRadius(Section):
    """The norm radius itself."""

    type: Literal["fixed"]
    radius: Positive


class DiameterRadius(Section):
    """The radius at which the ball has this Euclidean diameter."""

    type: Literal["diameter"]
    diameter: Positive


class InitScaledRadius(Section):
    """The radius at which half the diameter is `scale` times the parameter's initial norm."""

    type: Literal["init-scaled"]
    scale: Positive = 30.0


Radius = Annotated[FixedRadius | DiameterRadius | InitScaledRadius, Field(discriminator="type")]


class FreeTreatment(Section):
    """No constraint: plain SGD inside the same optimizer, with its own numbers."""

    type: Literal["free"]
    lr: NonNegative = 0.05
    momentum: Momentum = 0.9
    weight_decay: NonNegative = 0.0


class BallTreatment(Section):
    """A ball of the catalogue; `k` and `p` where that ball takes them."""

    type: Literal["ball"]
    ball: str
    k: K | None = None
    p: Annotated[float, Field(ge=1)] | None = None
    radius: Radius | None = None

    @model_validator(mode="after")
    def _known(self) -> Self:
        if self.ball not in BALLS:
            raise ValueError(f"ball must be one of {', '.join(sorted(BALLS))}, found {self.ball!r}")
        takes = inspect.signature(BALLS[self.ball]).parameters
        for name, value in (("k", self.k), ("p", self.p)):
            if (name in takes) != (value is not None):
                needs = "needs" if name in takes else "does not take"
                raise ValueError(f"the {self.ball} ball {needs} {name}, found {value!r}")
        return self


class JoinedTreatment(Section):
    """Scale and shift join the atom of the filter that they follow."""

    type: Literal["joined"]


Rest = Annotated[FreeTreatment | BallTreatment, Field(discriminator="type")]
Norms = Annotated[FreeTreatment | BallTreatment | JoinedTreatment, Field(discriminator="type")]


class RuleSection(Section):
    """Parameters that match all conditions get the treatment; the first rule that matches a parameter wins."""

    name: str = "*"
    layers: Literal["any", "convolution", "linear", "norm"] = "any"
    local: str = "*"
    treat: Rest


class GradientStep(Section):
    """lr * norm(m) / norm(theta - v)."""

    type: Literal["gradient"]


class FastGradientStep(Section):
    """lr * norm(m) / (diameter / 2)."""

    type: Literal["fast-gradient"]


class DiameterStep(Section):
    """lr / diameter."""

    type: Literal["diameter"]


class RawStep(Section):
    """lr itself."""

    type: Literal["raw"]


class ShrinkageStep(Section):
    """Step sizes that sum to `total` over the run, spread along the profile."""

    type: Literal["shrinkage"]
    total: Positive = 3.0
    profile: Literal["linear", "constant", "cosine"] = "linear"


Step = Annotated[GradientStep | FastGradientStep | DiameterStep | RawStep | ShrinkageStep, Field(discriminator="type")]


class SGDMethod(Section):
    """torch's SGD."""

    type: Literal["sgd"]
    lr: NonNegative = 0.05
    momentum: Momentum = 0.9
    weight_decay: NonNegative = 5e-4
    schedule: Schedule = "linear"


class SFWMethod(Section):
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


Method = Annotated[SGDMethod | SFWMethod, Field(discriminator="type")]
