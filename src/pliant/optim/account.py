"""The account that every point keeps of its steps: tensors without dimensions, in the state of its first parameter.

A step at a rate of 0 does not count: nothing moves in it, as in the first of some warm-ups, and in the step that
`torch.distributed.checkpoint` takes to make the state of an optimizer that has none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

START = {"steps": 0.0, "step_size": 0.0, "shrinkage": 0.0, "kept": 1.0}


def open_account(state: dict[str, Any], like: Tensor) -> None:
    """Make sure that a state has an account, in the dtype and on the device of `like`."""
    for key, start in START.items():
        if key not in state:
            state[key] = torch.full((), start, dtype=like.dtype, device=like.device)


def is_zero(rate: float | Tensor) -> bool:
    """Tell whether a rate is the number 0; of tensors that is known on their device alone."""
    return not isinstance(rate, Tensor) and rate == 0


def record(
    states: Sequence[dict[str, Any]],
    alphas: Sequence[Tensor],
    rates: Sequence[float | Tensor],
    usable: Tensor | None,
) -> None:
    """Enter the step sizes of one step.

    Args:
        states: of the points' first parameters.
        alphas: step sizes, tensors without dimensions.
        rates: of the points' groups.
        usable: whether the step counts; None: it does.
    """
    by_form: dict[tuple[torch.device, torch.dtype], list[int]] = {}
    for i, alpha in enumerate(alphas):
        by_form.setdefault((alpha.device, alpha.dtype), []).append(i)
    for (device, _), members in by_form.items():
        flag = None if usable is None else usable.to(device, non_blocking=True)
        _enter([states[i] for i in members], [alphas[i] for i in members], [rates[i] for i in members], flag)


def _enter(
    states: list[dict[str, Any]], alphas: list[Tensor], rates: list[float | Tensor], usable: Tensor | None
) -> None:
    accounts = {key: [state[key] for state in states] for key in START}
    stacked = torch.stack(alphas)
    _count(accounts["steps"], rates, usable)
    if usable is None:
        torch._foreach_copy_(accounts["step_size"], alphas)
    else:
        sizes = torch.where(usable, stacked, torch.stack(accounts["step_size"]))
        torch._foreach_copy_(accounts["step_size"], list(sizes.unbind()))
    torch._foreach_add_(accounts["shrinkage"], alphas)
    torch._foreach_mul_(accounts["kept"], list((1 - stacked).unbind()))


def _count(steps: list[Tensor], rates: list[float | Tensor], usable: Tensor | None) -> None:
    """Add a step to the counts of the points that took one."""
    pairs = [(count, rate) for count, rate in zip(steps, rates, strict=True) if not is_zero(rate)]
    if usable is None and not any(isinstance(rate, Tensor) for _, rate in pairs):
        if pairs:
            torch._foreach_add_([count for count, _ in pairs], 1.0)
        return
    for count, rate in pairs:
        took = torch.ones_like(count) if usable is None else usable.to(count.dtype)
        count.add_(took if not isinstance(rate, Tensor) else took * (rate.reshape(()).to(count.device) != 0))
