"""What a recipe can say about step sizes, and the optimizer's step rules."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from pliant.optim import DiameterScaled, FastGradientScaled, GradientScaled, Raw, Shrinkage, StepRule, steps
from pliant.training.recipe_section import Positive, Section

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


def step_rule_of(step: Step, total_steps: int) -> StepRule:
    """Return the optimizer's step rule for a run of so many steps."""
    if isinstance(step, ShrinkageStep):
        return Shrinkage(step.total, steps=total_steps, profile=PROFILES[step.profile])
    return STEPS[step.type]
