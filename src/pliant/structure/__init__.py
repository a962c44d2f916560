"""Which parameter is what: plans, radius rules, matrix axes, norm layers."""

from pliant.structure.group import Group
from pliant.structure.matricise import axes_of
from pliant.structure.norms import norm_after
from pliant.structure.plan import Moved, Plan
from pliant.structure.radius import Diameter, Fixed, InitScaled, RadiusRule, initial_norm
from pliant.structure.rules import Rule, Slot
from pliant.structure.separate_attention import separate_attention
from pliant.structure.treatment import Constraint, Free, Joined, Treatment

__all__ = [
    "Constraint",
    "Diameter",
    "Fixed",
    "Free",
    "Group",
    "InitScaled",
    "Joined",
    "Moved",
    "Plan",
    "RadiusRule",
    "Rule",
    "Slot",
    "Treatment",
    "axes_of",
    "initial_norm",
    "norm_after",
    "separate_attention",
]
