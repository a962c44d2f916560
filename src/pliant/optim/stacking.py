"""Tensors and numbers along a new first dimension."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def stack(tensors: Sequence[Tensor]) -> Tensor:
    """Return tensors along a new first dimension; a view where there is one of them."""
    return tensors[0].unsqueeze(0) if len(tensors) == 1 else torch.stack(list(tensors))


def unstack(stacked: Tensor, into: Sequence[Tensor]) -> None:
    """Write a changed stack back to where it came from; nothing is left to do where it is a view."""
    if len(into) > 1:
        torch._foreach_copy_(list(into), list(stacked.unbind()))


def numbers(values: Sequence[float], like: Tensor) -> Tensor:
    """Return numbers as a tensor of the dtype and on the device of `like`, without waiting for the device."""
    if like.device.type == "cpu":
        return torch.tensor(values, dtype=like.dtype)
    zeros = torch.zeros(len(values), dtype=like.dtype, device=like.device)
    return torch.stack(torch._foreach_add(list(zeros.unbind()), list(values)))  # noqa: SLF001
