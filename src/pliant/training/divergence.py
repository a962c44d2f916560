"""Divergence: what of a run is not finite any more, and errors that are only its consequence."""

from __future__ import annotations

import math
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from pliant.bcd.errors import SingularSystemError
from pliant.distributed import RankError
from pliant.optim.finite import NonFiniteGradientError
from pliant.regions.svd import DecompositionError
from pliant.sharding import local
from pliant.training.loop import DivergedError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor, nn

    from pliant.training.learner import Learner
    from pliant.training.position import Position

DIVERGED = (DivergedError, NonFiniteGradientError, DecompositionError, SingularSystemError)
_CONSEQUENCES = (ArithmeticError, RuntimeError, ValueError)  # of decompositions, scores and counts of NaN


def check_sound(model: nn.Module, position: Position) -> None:
    """Check that the loss of the epoch under way and all weights are finite. Waits for the device.

    Raises:
        DivergedError: some are not; the message says which.
    """
    if not math.isfinite(position.mean_loss()):
        raise _diverged("the training loss", position)
    for name, weight in _trained(model):
        if not _is_finite(weight):
            raise _diverged(name, position)


@contextmanager
def diagnosed(learner: Learner, position: Position) -> Iterator[None]:
    """Raise DivergedError from an error that leaves the block while loss, weights or gradients are not finite.

    Whatever looks at such weights may fail first, with an error of its own. Errors of other kinds, of files, memory or
    other ranks, and all errors at finite weights, leave the block as they are. Nothing here is collective.
    """
    try:
        yield
    except (RankError, *DIVERGED):
        raise
    except _CONSEQUENCES as error:
        try:
            check_sound(learner.model, position)
            _check_gradients(learner.model, position)
        except DivergedError as diverged:
            raise diverged from error
        raise


def _check_gradients(model: nn.Module, position: Position) -> None:
    for name, weight in _trained(model):
        if weight.grad is not None and not _is_finite(weight.grad):
            raise _diverged(f"the gradient of {name}", position)


def _trained(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    return ((name, weight) for name, weight in model.named_parameters() if weight.requires_grad)


def _is_finite(x: Tensor) -> bool:
    return bool(torch.isfinite(local(x)).all())


def _diverged(what: str, position: Position) -> DivergedError:
    when = f"after {position.epoch} epochs and {position.batch} batches"
    return DivergedError(f"{what} is not finite {when}; lower the learning rate, or start from smaller weights")
