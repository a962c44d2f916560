"""Checkpoint: everything that a resumed run needs to go on as if it had never stopped, in one file."""

from __future__ import annotations

import io
import pickle
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from pliant import atomic
from pliant.training.position import Position

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler

_SCHEMA = 2  # 2: the position counts gradient evaluations


class CheckpointError(ValueError):
    """A checkpoint is damaged, or of a format that this version does not read."""


@dataclass(frozen=True)
class Trainee:
    """The live objects that a checkpoint captures and restores together."""

    model: nn.Module
    optimizer: Optimizer
    scheduler: LRScheduler


def save_checkpoint(path: Path, trainee: Trainee, position: Position, *, seconds: float) -> None:
    """Write the checkpoint; `torch.load(weights_only=True)` reads it.

    Args:
        path: of the file, which is replaced as a whole.
        trainee: model, optimizer and scheduler.
        position: where training stands.
        seconds: spent training so far.
    """
    content = {
        "schema": _SCHEMA,
        "model": trainee.model.state_dict(),
        "optimizer": trainee.optimizer.state_dict(),
        "scheduler": trainee.scheduler.state_dict(),
        "position": position.state_dict(),
        "random": _random_state(),
        "seconds": seconds,
    }
    buffer = io.BytesIO()
    torch.save(content, buffer)
    atomic.write_bytes(path, buffer.getvalue())


def load_checkpoint(path: Path, trainee: Trainee) -> tuple[Position, float]:
    """Restore model, optimizer, scheduler and torch's random states in place.

    Returns:
        The position, and the seconds spent training before it.

    Raises:
        CheckpointError: the file is damaged or of another format.
    """
    content = _read(path)
    device = next(trainee.model.parameters()).device
    trainee.model.load_state_dict(content["model"])
    trainee.optimizer.load_state_dict(content["optimizer"])
    trainee.scheduler.load_state_dict(content["scheduler"])
    _restore_random_state(content["random"])
    return Position.from_state_dict(content["position"], device), content["seconds"]


def read_position(path: Path) -> Position:
    """Return where the training in a checkpoint stands; nothing is restored.

    Raises:
        CheckpointError: the file is damaged or of another format.
    """
    return Position.from_state_dict(_read(path)["position"])


def _read(path: Path) -> dict[str, Any]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, EOFError, RuntimeError, pickle.UnpicklingError) as error:
        raise CheckpointError(f"{path} cannot be read as a checkpoint: {error}") from error
    if not isinstance(content, dict) or content.get("schema") != _SCHEMA:
        raise CheckpointError(f"{path}: schema must be {_SCHEMA}; the file is of another version of pliant, or foreign")
    return content


def _random_state() -> dict[str, Any]:
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {"cpu": torch.get_rng_state(), "cuda": cuda}


def _restore_random_state(state: dict[str, Any]) -> None:
    torch.set_rng_state(state["cpu"])
    if len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])
