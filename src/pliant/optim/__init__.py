"""Optimizers and their step-size rules."""

from pliant.optim.diagnostics import GroupDiagnostics
from pliant.optim.group import NonFinite
from pliant.optim.sfw import SFW, NonFiniteGradientError
from pliant.optim.steps import (
    Constant,
    Cosine,
    DiameterScaled,
    FastGradientScaled,
    GradientScaled,
    Linear,
    Profile,
    Raw,
    Shrinkage,
    Situation,
    StepRule,
)

__all__ = [
    "SFW",
    "Constant",
    "Cosine",
    "DiameterScaled",
    "FastGradientScaled",
    "GradientScaled",
    "GroupDiagnostics",
    "Linear",
    "NonFinite",
    "NonFiniteGradientError",
    "Profile",
    "Raw",
    "Shrinkage",
    "Situation",
    "StepRule",
]
