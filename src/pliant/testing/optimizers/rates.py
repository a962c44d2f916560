"""Laws of rates: hyper-parameters are read from the group at every step."""

from __future__ import annotations

from typing import Any

import torch

from pliant.testing.optimizers.case import OptimizerCase
from pliant.testing.optimizers.compare import require_close, require_same, same
from pliant.testing.optimizers.schedulers import SCHEDULERS, schedule
from pliant.testing.violation import require


def schedulers_change_the_steps(case: OptimizerCase) -> None:
    """Under any scheduler of torch a step uses the group's rate and momentum of that moment, to the bit.

    The run equals the one in which the same values are written by hand, and differs from the one without scheduler.
    """
    constant = case.start().take(case.steps).weights()
    for name in SCHEDULERS:
        run, written = case.start(), []
        advance = schedule(name, run.optimizer)
        for _ in range(case.steps):
            written.append([_numbers(group) for group in run.optimizer.param_groups])
            run.take(1)
            advance()
        by_hand = case.start()
        for values in written:
            for group, options in zip(by_hand.optimizer.param_groups, values, strict=True):
                group.update(options)
            by_hand.take(1)
        require_same(by_hand.weights(), run.weights(), f"{name} acts through the groups alone", case)
        require(not same(constant, run.weights()), f"{name} changes the steps", case, "the same weights", "others")


def tensor_rates_are_numbers(case: OptimizerCase) -> None:
    """A learning rate that is a tensor, of no dimension or of one entry, gives the steps of the number."""
    expected = case.start().take(case.steps).weights()
    for shape in ((), (1,)):
        run = case.start()
        for group in run.optimizer.param_groups:
            group["lr"] = torch.full(shape, group["lr"], dtype=case.dtype)
        require_close(expected, run.take(case.steps).weights(), f"a rate of shape {shape} is a number", case)


def _numbers(group: dict[str, Any]) -> dict[str, Any]:
    return {key: group[key] for key in ("lr", "momentum") if key in group}
