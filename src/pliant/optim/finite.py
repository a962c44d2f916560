"""Whether gradients are finite, and what a step does about those that are not."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum

import torch
from torch import Tensor

from pliant.sharding import agreed, is_sharded, local
from pliant.spec import register

SMALL = 2**16  # entries; up to here looking at a tensor takes longer than copying it


@register
class NonFinite(Enum):
    """What a step does about a gradient that holds NaN or infinity."""

    RAISE = "raise"  # name the parameters, touch nothing; reads one number from each device per step
    SKIP = "skip"  # leave out the whole step; decided on the device, one more pass over momentum and gradient
    IGNORE = "ignore"  # do not look


class NonFiniteGradientError(ArithmeticError):
    """A gradient holds NaN or infinity; no weight and no state was touched."""


def all_finite(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Return one boolean per device, on that device: whether all entries of its tensors are finite.

    Where some are sharded there is one for all, which the processes agree on. Collective then.
    """
    by_device: dict[torch.device, list[Tensor]] = {}
    for tensor in map(local, tensors):
        if tensor.numel():
            by_device.setdefault(tensor.device, []).append(tensor)
    flags = [_finite(part) for part in by_device.values()]
    return [agreed(flags, tensors)] if any(map(is_sharded, tensors)) else flags


def _finite(tensors: list[Tensor]) -> Tensor:
    # The largest entry is finite exactly if all are; a sum may overflow.
    if tensors[0].device.type == "cpu":
        return torch.isfinite(torch.stack([end.float() for x in _few(tensors) for end in torch.aminmax(x)])).all()
    return torch.isfinite(torch.stack([norm.float() for norm in torch._foreach_norm(tensors, torch.inf)])).all()  # noqa: SLF001


def _few(tensors: list[Tensor]) -> list[Tensor]:
    """Return the tensors, the small ones of a dtype as one."""
    small: dict[torch.dtype, list[Tensor]] = {}
    for x in tensors:
        if x.numel() <= SMALL:
            small.setdefault(x.dtype, []).append(x.reshape(-1))
    return [x for x in tensors if x.numel() > SMALL] + [torch.cat(parts) for parts in small.values()]
