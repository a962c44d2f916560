"""Schedulers that go on with another optimizer."""

from __future__ import annotations

import copy
from typing import TypeVar

from torch.optim import Optimizer
from torch.optim.lr_scheduler import ConstantLR, LRScheduler

from pliant.compress.carry.slicing import CarryError

S = TypeVar("S", bound=LRScheduler)


def carry_scheduler(scheduler: S, optimizer: Optimizer) -> S:
    """Return a scheduler that drives another optimizer, from where the given one stands, which is left as it is.

    Args:
        scheduler: of the old optimizer; schedulers inside it follow.
        optimizer: what `carry_over` returned.

    Raises:
        CarryError: if the two optimizers differ in their number of groups.
    """
    old, new = len(scheduler.optimizer.param_groups), len(optimizer.param_groups)
    if old != new:
        raise CarryError(f"the scheduler drives {old} parameter groups, the optimizer has {new}")
    carried = copy.deepcopy(scheduler, {id(scheduler.optimizer): optimizer})
    ConstantLR(optimizer, factor=1.0)  # changes no rate, but lets the optimizer tell its schedulers that it stepped
    return carried
