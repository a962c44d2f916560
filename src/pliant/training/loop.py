"""The training loop."""

from __future__ import annotations

import math
from contextlib import nullcontext
from itertools import islice
from typing import TYPE_CHECKING, Protocol, cast

import torch
from torch.nn import functional as F

from pliant.distributed import Share, World
from pliant.training.position import EpochResult, Position

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from torch import Tensor, nn
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler


ALONE = World()


class EpochBatches(Protocol):
    """Batches of ``(x, y)`` whose order in epoch ``e`` depends on nothing but ``e``, such as `pliant.data.Batches`."""

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration runs."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]: ...


class DivergedError(ArithmeticError):
    """The training loss, or what it is computed from, is not finite any more."""


def fit(
    model: nn.Module,
    optimizer: Optimizer,
    batches: EpochBatches,
    *,
    epochs: int,
    scheduler: LRScheduler | None = None,
    autocast: torch.dtype | None = None,
    compiled: bool = False,
    position: Position | None = None,
    on_step: Callable[[Position], None] = lambda _: None,
    on_epoch: Callable[[EpochResult], None] = lambda _: None,
    stop: Callable[[], bool] = lambda: False,
    world: World = ALONE,
) -> Position:
    """Train with cross-entropy until `epochs` epochs are done, or until `stop()` says so after a step.

    Every step hands the optimizer a closure, torch's protocol for optimizers that need the gradient more than once or
    at other weights; all others call it once. A method is made of optimizers and models, never of another loop.

    Args:
        model: maps ``x`` to class scores ``(batch, classes)``.
        optimizer: any torch optimizer over the model's parameters.
        batches: the training batches.
        epochs: in total, those before `position` included.
        scheduler: stepped after every batch.
        autocast: the dtype that the forward pass runs in where that is safe; None: that of the weights.
        compiled: whether the model is called through `torch.compile`.
        position: where to go on; None: from the start.
        on_step: called after every batch; reading the position's sums waits for the device.
        on_epoch: called after every epoch, when the position is that of the next epoch's start.
        stop: asked after every batch.
        world: the processes that train together; each calls this with the same arguments and takes its share of every
            batch.

    Returns:
        The position reached; ``position.epoch == epochs`` if training is finished.

    Raises:
        DivergedError: the mean loss of an epoch is not finite.
        ValueError: the optimizer takes a step without calling the closure.
    """
    device = next(model.parameters()).device
    called = world.wrap(model)
    if compiled:
        called = cast("nn.Module", torch.compile(called))
    position = position or Position.start(device)
    while position.epoch < epochs:
        model.train()
        batches.set_epoch(position.epoch)
        for x, y in islice(batches, position.batch, None):
            part = world.share(x, y)
            closure = Evaluation(called, optimizer, part, autocast)
            optimizer.step(closure)
            if scheduler is not None:
                scheduler.step()
            scores, labels = closure.scores[: part.count], part.y[: part.count]
            position.count(closure.loss, scores, labels, closure.calls, None if world.alone else world)
            on_step(position)
            if world.any(stop()):
                return position
        on_epoch(_checked(position.finish_epoch()))
    return position


class Evaluation:
    """The closure of one step: a batch's loss and its gradients at the weights of the moment.

    Args:
        model: maps ``x`` to class scores.
        optimizer: whose gradients are cleared first.
        part: the images, their labels, and the weight of their mean loss.
        autocast: as for `fit`.

    `calls` counts the gradient evaluations. `loss` and `scores` are those of the first, at the weights that the step
    started from.
    """

    def __init__(self, model: nn.Module, optimizer: Optimizer, part: Share, autocast: torch.dtype | None) -> None:
        self._model, self._optimizer, self._part, self._autocast = model, optimizer, part, autocast
        self._first: tuple[Tensor, Tensor] | None = None
        self.calls = 0

    def __call__(self) -> float:
        """Set the gradients and return the loss, which stays on the device."""
        x, y, weight = self._part.x, self._part.y, self._part.weight
        self._optimizer.zero_grad()
        with precision(x.device, self._autocast):
            scores = self._model(x)
            loss = F.cross_entropy(scores.float(), y)
        (loss if weight == 1.0 else weight * loss).backward()
        self.calls += 1
        self._first = self._first or (loss.detach(), scores.detach())
        return cast("float", loss)  # torch's signature says float, its own examples return the tensor

    @property
    def loss(self) -> Tensor:
        """Mean loss of the batch, at the first call."""
        return self._results()[0]

    @property
    def scores(self) -> Tensor:
        """Class scores ``(batch, classes)``, at the first call."""
        return self._results()[1]

    def _results(self) -> tuple[Tensor, Tensor]:
        if self._first is None:
            raise ValueError(
                f"{type(self._optimizer).__name__}.step must call the closure that it is given, and did not"
            )
        return self._first


def precision(device: torch.device, autocast: torch.dtype | None) -> AbstractContextManager[object]:
    """Return the context that a forward pass runs in: autocast to a dtype, or nothing."""
    return nullcontext() if autocast is None else torch.autocast(device.type, autocast)


def _checked(result: EpochResult) -> EpochResult:
    if not math.isfinite(result.loss):
        raise DivergedError(f"the training loss of epoch {result.epoch} is {result.loss}; lower the learning rate")
    return result
