"""The ranges of the numbers in a parameter group: checked at construction, and as far as is free in every step."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from torch import Tensor

_LIMITS = {"lr": math.inf, "weight_decay": math.inf, "momentum": 1.0, "dampening": 1.0}


def check_numbers(group: dict[str, Any], keys: Iterable[str]) -> None:
    """Check what a schedule or a loop may have set in a group: plain numbers, since reading tensors waits for a device.

    Raises:
        ValueError: if one is negative, not finite, or too large.
    """
    for key in keys:
        value = group[key]
        if isinstance(value, int | float) and not 0.0 <= value < _LIMITS[key]:
            raise _refused(key, value)


def check_kinds(group: dict[str, Any], keys: Iterable[str]) -> None:
    """Check numbers and their kinds; the learning rate may be a tensor, which is read.

    Raises:
        ValueError: naming what is allowed and what was found.
    """
    lr = group["lr"]
    if isinstance(lr, Tensor) and lr.numel() != 1:
        raise ValueError(f"lr must be a number or a tensor of one entry, found one of shape {tuple(lr.shape)}")
    for key in keys:
        value = group[key]
        tensor = key == "lr" and isinstance(value, Tensor)
        if not (isinstance(value, int | float) or tensor) or not 0.0 <= value < _LIMITS[key]:
            raise _refused(key, value)


def _refused(key: str, value: object) -> ValueError:
    allowed = "at least 0 and finite" if _LIMITS[key] == math.inf else f"in [0, {_LIMITS[key]:g})"
    return ValueError(f"{key} must be {allowed}, found {value!r}")
