"""Optimizers and their step-size rules."""

from pliant.optim.adaptive import Adaptive
from pliant.optim.agreement import RankMismatchError, check_ranks
from pliant.optim.diagnostics import GroupDiagnostics
from pliant.optim.dual_averaging import DualAveraging
from pliant.optim.finite import NonFinite, NonFiniteGradientError
from pliant.optim.precision import Master, Precision, StochasticRounding
from pliant.optim.proximal import ProximalSGD, Regulariser
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
    "Adaptive",
    "Constant",
    "Cosine",
    "DiameterScaled",
    "DualAveraging",
    "FastGradientScaled",
    "GradientScaled",
    "GroupDiagnostics",
    "Linear",
    "Master",
    "NonFinite",
    "NonFiniteGradientError",
    "Precision",
    "Profile",
    "ProximalSGD",
    "RankMismatchError",
    "Raw",
    "Regulariser",
    "Shrinkage",
    "Situation",
    "StepRule",
    "StochasticRounding",
    "check_ranks",
]
