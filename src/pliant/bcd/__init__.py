"""Block coordinate descent: networks trained without gradients into compressed weights."""

from pliant.bcd.course import Course
from pliant.bcd.descent import BlockCoordinateDescent
from pliant.bcd.errors import BCDError, ChainError, SingularSystemError
from pliant.bcd.losses import CrossEntropy, Hinge, Loss, Squared
from pliant.bcd.modes import HardMode, Mode, PenaltyMode
from pliant.bcd.objective import Objective
from pliant.bcd.penalties import Constant, Geometric, Penalties, Schedule
from pliant.bcd.polish import Polish
from pliant.bcd.progress import Progress

__all__ = [
    "BCDError",
    "BlockCoordinateDescent",
    "ChainError",
    "Constant",
    "Course",
    "CrossEntropy",
    "Geometric",
    "HardMode",
    "Hinge",
    "Loss",
    "Mode",
    "Objective",
    "Penalties",
    "PenaltyMode",
    "Polish",
    "Progress",
    "Schedule",
    "SingularSystemError",
    "Squared",
]
