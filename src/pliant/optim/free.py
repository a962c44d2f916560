"""The step of free groups: SGD with momentum and weight decay."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pliant.optim.gradient import gradient_of
from pliant.optim.precision import HALF, Precision


def free_step(p: Tensor, state: dict[str, Any], group: dict[str, Any], usable: Tensor | None) -> None:
    """Take the step of `torch.optim.SGD`, to the bit where the rate is a number and the weights have 32 bits or more.

    Args:
        p: a parameter with a gradient.
        state: its state.
        group: lr, momentum, weight_decay, precision.
        usable: whether the step counts; None: it does.
    """
    grad = gradient_of(p)
    if grad is None:
        return
    half = p.dtype in HALF
    precision: Precision = group["precision"]
    x = precision.load(p, state) if half else p
    grad = grad.to(x.dtype)
    if usable is not None:
        usable = usable.to(p.device, non_blocking=True)
        grad = torch.where(usable, grad, 0.0)
    direction = grad.add(x, alpha=group["weight_decay"]) if group["weight_decay"] else grad
    if group["momentum"]:
        direction = _advance(state, direction, group["momentum"], usable)
    _move(x, direction, group["lr"], usable)
    if half:
        precision.store(p, x, state)


def _advance(state: dict[str, Any], direction: Tensor, momentum: float, usable: Tensor | None) -> Tensor:
    if "momentum_buffer" not in state:
        state["momentum_buffer"] = torch.clone(direction).detach()
        return state["momentum_buffer"]
    buffer: Tensor = state["momentum_buffer"]
    if usable is None:
        return buffer.mul_(momentum).add_(direction)
    return buffer.copy_(torch.where(usable, buffer * momentum + direction, buffer))


def _move(x: Tensor, direction: Tensor, lr: float | Tensor, usable: Tensor | None) -> None:
    if isinstance(lr, Tensor):
        rate = lr.reshape(()).to(x.device, non_blocking=True)
        x.sub_(direction * (rate if usable is None else torch.where(usable, rate, 0.0)))
    elif usable is not None:
        x.sub_(direction * (usable * lr))
    else:
        x.add_(direction, alpha=-lr)  # to the bit as torch.optim.SGD
