"""Checkpoint: everything that a resumed run needs to go on as if it had never stopped, in one file."""

from __future__ import annotations

import io
import logging
import pickle
import random
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from pliant import atomic
from pliant.seal import SealError, check_seal, seal
from pliant.training.position import Position

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler

_LOG = logging.getLogger(__name__)
_SCHEMA = 3  # 2: the position counts gradient evaluations; 3: sealed, with all random states
_FIELDS = frozenset({"schema", "position", "random", "seconds"})  # of every checkpoint, beside the trainee's parts
_DAMAGE = (  # what torch raises for files that are no checkpoints, or those of something else
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    NotImplementedError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    pickle.UnpicklingError,
)


class CheckpointError(ValueError):
    """A checkpoint is damaged, or of a format that this version does not read."""


class Stateful(Protocol):
    """A live object with a state, as torch's have it."""

    def state_dict(self) -> Any:  # noqa: ANN401  (plain data and tensors, nested)
        """Return the state."""

    def load_state_dict(self, state_dict: Any, /) -> Any:  # noqa: ANN401
        """Restore a state in place."""


class Captured(ABC):
    """The live objects that a checkpoint captures and restores together."""

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Where they live."""

    @abstractmethod
    def parts(self) -> Mapping[str, Stateful]:
        """Return them by their names in the file, in the order in which they are restored."""


@dataclass(frozen=True)
class Trainee(Captured):
    """A model that is trained by an optimizer under a schedule."""

    model: nn.Module
    optimizer: Optimizer
    scheduler: LRScheduler

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.model.parameters()).device

    def parts(self) -> Mapping[str, Stateful]:
        """Return model, optimizer and scheduler."""
        return {"model": self.model, "optimizer": self.optimizer, "scheduler": self.scheduler}


def save_checkpoint(path: Path, trainee: Captured, position: Position, *, seconds: float) -> None:
    """Write the checkpoint; `torch.load(weights_only=True)` reads it, its SHA-256 stands at its end.

    At every moment there is a whole one on the disk, and the one before it stays as `previous_checkpoint(path)`.

    Args:
        path: of the file, which is replaced as a whole.
        trainee: such as model, optimizer and scheduler.
        position: where training stands.
        seconds: spent training so far.
    """
    content = {
        "schema": _SCHEMA,
        **{name: part.state_dict() for name, part in trainee.parts().items()},
        "position": position.state_dict(),
        "random": _random_state(),
        "seconds": seconds,
    }
    buffer = io.BytesIO()
    torch.save(content, buffer)
    atomic.write_bytes(path, seal(buffer), keep=previous_checkpoint(path))


def previous_checkpoint(path: Path) -> Path:
    """Return the name under which the checkpoint before the last one is kept."""
    return path.with_name(f"{path.stem}.previous{path.suffix}")


def has_checkpoint(path: Path) -> bool:
    """Tell whether there is a checkpoint, or the one before it."""
    return path.exists() or previous_checkpoint(path).exists()


def remove_checkpoint(path: Path) -> None:
    """Remove a checkpoint and the one before it."""
    path.unlink(missing_ok=True)
    previous_checkpoint(path).unlink(missing_ok=True)


def load_checkpoint(path: Path, trainee: Captured) -> tuple[Position, float]:
    """Restore the trainee and all random states in place.

    A checkpoint that is damaged is named in the log, and the one before it is taken.

    Returns:
        The position, and the seconds spent training before it.

    Raises:
        CheckpointError: neither can be read, or they are of something else; the trainee is of no use then.
    """
    found, content = _last_good(path)
    parts = trainee.parts()
    if set(content) != _FIELDS | set(parts):
        raise CheckpointError(f"{found} is a checkpoint of something else: it does not hold {', '.join(parts)} alone")
    try:
        position = Position.from_state_dict(content["position"], trainee.device)
        seconds = float(content["seconds"])
        for name, part in parts.items():
            part.load_state_dict(content[name])
        _restore_random_state(content["random"])
    except _DAMAGE as error:
        raise CheckpointError(f"{found} is a checkpoint of something else: {type(error).__name__}: {error}") from error
    return position, seconds


def read_position(path: Path) -> Position:
    """Return where the training stands that `load_checkpoint` would restore; nothing is restored.

    Raises:
        CheckpointError: as for `load_checkpoint`.
    """
    found, content = _last_good(path)
    try:
        return Position.from_state_dict(content["position"])
    except _DAMAGE as error:
        raise CheckpointError(f"{found} is a checkpoint of something else: {type(error).__name__}: {error}") from error


def _last_good(path: Path) -> tuple[Path, dict[str, Any]]:
    """Return the content of a checkpoint, or of the one before it where that is damaged, and where it was found."""
    try:
        return path, _read(path)
    except CheckpointError as error:
        previous = previous_checkpoint(path)
        if not previous.exists():
            raise CheckpointError(f"{error}. No other checkpoint is left: start the run again") from error
        _LOG.warning("%s; going on from %s, the checkpoint before it", error, previous.name)
        return previous, _read(previous)


def _read(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            check_seal(file)
            content = torch.load(file, map_location="cpu", weights_only=True)
    except SealError as error:
        raise CheckpointError(f"{path} cannot be read as a checkpoint: {error}") from error
    except _DAMAGE as error:
        raise CheckpointError(f"{path} cannot be read as a checkpoint: {type(error).__name__}: {error}") from error
    if not isinstance(content, dict) or content.get("schema") != _SCHEMA or not set(content) >= _FIELDS:
        raise CheckpointError(f"{path}: schema must be {_SCHEMA}; the file is of another version of pliant, or foreign")
    if any(tensor.nbytes > tensor.untyped_storage().nbytes() for tensor in _tensors(content)):
        raise CheckpointError(f"{path} holds a tensor that is larger than its values: it is foreign")
    return content


def _tensors(content: dict[str, Any]) -> Iterator[Tensor]:
    return (leaf for leaf in pytree.tree_leaves(content) if isinstance(leaf, Tensor))


def _random_state() -> dict[str, Any]:
    kind, keys, *rest = np.random.get_state()  # noqa: NPY002  (a user's model may draw from it)
    return {
        "cpu": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "python": random.getstate(),
        "numpy": (kind, np.asarray(keys).tolist(), *rest),
    }


def _restore_random_state(state: dict[str, Any]) -> None:
    torch.set_rng_state(state["cpu"])
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])  # noqa: NPY002
    if len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])
