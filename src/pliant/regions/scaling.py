"""Bringing tensors into a range in which squares neither vanish nor overflow."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from pliant.regions.vertex import across


def nonzero(x: Tensor) -> Tensor:
    """Return largest entries to divide by: never below the smallest normal number."""
    return x.clamp_min(torch.finfo(x.dtype).tiny)


def nonzero_length(x: Tensor) -> Tensor:
    """Return Euclidean norms to divide by: never below those whose squares are lost, so that quotients stay below 1."""
    return x.clamp_min(math.sqrt(torch.finfo(x.dtype).tiny))


def upcast(x: Tensor) -> Tensor:
    """Return x in float32 if it has 16 bits, otherwise x."""
    return x.float() if x.dtype in {torch.float16, torch.bfloat16} else x


def in_units(xs: Sequence[Tensor], scales: Sequence[float]) -> list[Tensor]:
    """Return tensors in computing precision, multiplied by their scales."""
    return [upcast(x) if scale == 1.0 else upcast(x) * scale for x, scale in zip(xs, scales, strict=True)]


def to_unit_peak(xs: Sequence[Tensor], batch: int) -> tuple[list[Tensor], Tensor]:
    """Return tensors brought to a largest entry of 1 over all of them, and that largest entry, shape (*batch,).

    Squares of tiny or huge gradients leave the range of float32; after this they do not.
    """
    peaks = [x.detach().abs().reshape(*x.shape[:batch], -1).amax(-1) for x in xs]
    peak = peaks[0] if len(peaks) == 1 else torch.stack(peaks).amax(0)
    peak = nonzero(peak)
    return [x / across(peak, x.ndim) for x in xs], peak
