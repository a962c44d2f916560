"""What a recipe can say about how a parameter is constrained, and the library's objects for it."""

from __future__ import annotations

import inspect
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator
from torch import nn

from pliant.regions import CATALOGUE
from pliant.structure import Constraint, Diameter, Fixed, Free, InitScaled, Joined, RadiusRule, Rule
from pliant.structure.matricise import CONVOLUTIONS, TRANSPOSED
from pliant.structure.norms import NORM_LAYERS
from pliant.training.recipe_section import K, Momentum, NonNegative, Positive, Section

_SUFFIX = "-ball"
BALLS = {name.removesuffix(_SUFFIX): ball for name, ball in CATALOGUE.items()}
LAYERS: dict[str, tuple[type[nn.Module], ...]] = {
    "any": (),
    "convolution": (*CONVOLUTIONS, *TRANSPOSED),
    "linear": (nn.Linear,),
    "norm": NORM_LAYERS,
}


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


def rule_of(rule: RuleSection) -> Rule:
    """Return the plan's rule."""
    return Rule(treatment_of(rule.treat), name=rule.name, modules=LAYERS[rule.layers], local=rule.local)


def radius_of(radius: Radius) -> RadiusRule:
    """Return the plan's radius rule."""
    if isinstance(radius, FixedRadius):
        return Fixed(radius.radius)
    return Diameter(radius.diameter) if isinstance(radius, DiameterRadius) else InitScaled(radius.scale)


def norms_of(given: Norms) -> Constraint | Free | Joined:
    """Return the plan's treatment of norm layers."""
    return Joined() if isinstance(given, JoinedTreatment) else treatment_of(given)


def treatment_of(given: Rest) -> Constraint | Free:
    """Return the plan's treatment."""
    if isinstance(given, FreeTreatment):
        return Free(lr=given.lr, momentum=given.momentum, weight_decay=given.weight_decay)
    shape = {name: value for name, value in (("k", given.k), ("p", given.p)) if value is not None}
    ball = BALLS[given.ball](**shape, radius=1.0)
    own = {} if given.radius is None else {"radius": radius_of(given.radius)}
    return Constraint(ball.gauge, type(ball.view), **own)
