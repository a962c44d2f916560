"""Going on with training after a cut: optimizers, averages of weights and schedulers follow into the smaller model."""

from pliant.compress.carry.averages import carry_module
from pliant.compress.carry.luggage import CarryReport
from pliant.compress.carry.optimizers import Carried, carry_over, move_optimizer
from pliant.compress.carry.schedulers import carry_scheduler
from pliant.compress.carry.slicing import CarryError

__all__ = [
    "Carried",
    "CarryError",
    "CarryReport",
    "carry_module",
    "carry_over",
    "carry_scheduler",
    "move_optimizer",
]
