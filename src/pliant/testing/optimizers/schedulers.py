"""Every learning-rate scheduler of torch that needs no data, ready to be put on any optimizer."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

from torch.optim import Optimizer, lr_scheduler


def _cyclic(optimizer: Optimizer) -> Any:  # noqa: ANN401  (a scheduler)
    cycles = "momentum" in optimizer.defaults
    return lr_scheduler.CyclicLR(optimizer, base_lr=0.01, max_lr=0.05, step_size_up=2, cycle_momentum=cycles)


def _one_cycle(optimizer: Optimizer) -> Any:  # noqa: ANN401  (a scheduler)
    cycles = "momentum" in optimizer.defaults
    return lr_scheduler.OneCycleLR(optimizer, max_lr=0.05, total_steps=20, cycle_momentum=cycles)


def _sequential(optimizer: Optimizer) -> Any:  # noqa: ANN401  (a scheduler)
    parts: list[Any] = [lr_scheduler.ConstantLR(optimizer), lr_scheduler.ExponentialLR(optimizer, 0.5)]
    return lr_scheduler.SequentialLR(optimizer, parts, milestones=[2])


def _chained(optimizer: Optimizer) -> Any:  # noqa: ANN401  (a scheduler)
    return lr_scheduler.ChainedScheduler(
        [lr_scheduler.ConstantLR(optimizer), lr_scheduler.ExponentialLR(optimizer, 0.5)]
    )


SCHEDULERS: dict[str, Callable[[Optimizer], Any]] = {
    "LambdaLR": lambda o: lr_scheduler.LambdaLR(o, lambda epoch: 1.0 / (1 + epoch)),
    "MultiplicativeLR": lambda o: lr_scheduler.MultiplicativeLR(o, lambda _: 0.5),
    "StepLR": lambda o: lr_scheduler.StepLR(o, step_size=2),
    "MultiStepLR": lambda o: lr_scheduler.MultiStepLR(o, milestones=[1, 3]),
    "ConstantLR": lambda o: lr_scheduler.ConstantLR(o, total_iters=2),
    "LinearLR": lambda o: lr_scheduler.LinearLR(o, total_iters=3),
    "ExponentialLR": lambda o: lr_scheduler.ExponentialLR(o, 0.5),
    "PolynomialLR": lambda o: lr_scheduler.PolynomialLR(o, total_iters=3),
    "CosineAnnealingLR": lambda o: lr_scheduler.CosineAnnealingLR(o, T_max=3),
    "CosineAnnealingWarmRestarts": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, T_0=2),
    "CyclicLR": _cyclic,
    "OneCycleLR": _one_cycle,
    "ReduceLROnPlateau": lambda o: lr_scheduler.ReduceLROnPlateau(o, patience=0),
    "SequentialLR": _sequential,
    "ChainedScheduler": _chained,
}


def schedule(name: str, optimizer: Optimizer) -> Callable[[], None]:
    """Put a scheduler on an optimizer and return the function that advances it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what torch says about its own schedulers
        scheduler = SCHEDULERS[name](optimizer)

    def advance() -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if isinstance(scheduler, lr_scheduler.ReduceLROnPlateau):
                scheduler.step(1.0)
            else:
                scheduler.step()

    return advance
