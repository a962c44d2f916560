"""The account that every point keeps of its steps: tensors without dimensions, in the state of its first parameter."""

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


def record(states: Sequence[dict[str, Any]], alphas: Sequence[Tensor], usable: Tensor | None) -> None:
    """Enter the step sizes of one step.

    Args:
        states: of the points' first parameters.
        alphas: step sizes, tensors without dimensions.
        usable: whether the step counts; None: it does.
    """
    by_form: dict[tuple[torch.device, torch.dtype], list[int]] = {}
    for i, alpha in enumerate(alphas):
        by_form.setdefault((alpha.device, alpha.dtype), []).append(i)
    for (device, _), members in by_form.items():
        flag = None if usable is None else usable.to(device, non_blocking=True)
        _enter([states[i] for i in members], [alphas[i] for i in members], flag)


def _enter(states: list[dict[str, Any]], alphas: list[Tensor], usable: Tensor | None) -> None:
    accounts = {key: [state[key] for state in states] for key in START}
    stacked = torch.stack(alphas)
    if usable is None:
        torch._foreach_add_(accounts["steps"], 1.0)
        torch._foreach_copy_(accounts["step_size"], alphas)
    else:
        torch._foreach_add_(accounts["steps"], [usable.to(stacked.dtype)] * len(alphas))
        sizes = torch.where(usable, stacked, torch.stack(accounts["step_size"]))
        torch._foreach_copy_(accounts["step_size"], list(sizes.unbind()))
    torch._foreach_add_(accounts["shrinkage"], alphas)
    torch._foreach_mul_(accounts["kept"], list((1 - stacked).unbind()))
