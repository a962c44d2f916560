"""Training: a plain loop, exact checkpoints, learning-rate schedules; recipes and run folders around them.

`pliant.training.experiment` runs whole recipes; it needs the packages of the extra `pliant[cli]`.
"""

from pliant.training.checkpoint import CheckpointError, Trainee, load_checkpoint, save_checkpoint
from pliant.training.loop import DivergedError, EpochBatches, fit
from pliant.training.position import EpochResult, Position
from pliant.training.schedules import Constant, Cosine, Linear, Schedule, WarmCosine, scheduler_for

__all__ = [
    "CheckpointError",
    "Constant",
    "Cosine",
    "DivergedError",
    "EpochBatches",
    "EpochResult",
    "Linear",
    "Position",
    "Schedule",
    "Trainee",
    "WarmCosine",
    "fit",
    "load_checkpoint",
    "save_checkpoint",
    "scheduler_for",
]
