"""Optimizers and their step-size rules."""

from pliant.optim.diagnostics import GroupDiagnostics
from pliant.optim.finite import NonFinite, NonFiniteGradientError
from pliant.optim.precision import Master, Precision, StochasticRounding
from pliant.optim.sfw import SFW
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
    "Master",
    "NonFinite",
    "NonFiniteGradientError",
    "Precision",
    "Profile",
    "Raw",
    "Shrinkage",
    "Situation",
    "StepRule",
    "StochasticRounding",
]
