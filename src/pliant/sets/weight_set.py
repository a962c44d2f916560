"""WeightSet: what a compressed weight may be, known by its projection alone; Point: an element of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Point:
    """An element of a set of weights.

    Args:
        dense: in the weight's own shape.
        factors: what is stored of it, as its set defines them.
    """

    dense: Tensor
    factors: tuple[Tensor, ...]


class WeightSet(ABC):
    """A closed set of weights, in general without convexity: `regions` have norms and oracles, a set is a projection.

    Weights come in their layer's own shape, (out, in) or (out, in, kh, kw); the first dimension is that of the output
    channels.
    """

    @abstractmethod
    def project(self, weight: Tensor, near: Point | None = None) -> Point:
        """Return a nearest point of the set, or where that cannot be computed, one that is nearly so.

        With `near`, the result is never farther from `weight` than `near` is: alternating minimisation descends.

        Args:
            weight: shape (out, in, ...), finite.
            near: an earlier point of the same set and shape, to start from.

        Raises:
            SetError: if the weight does not fit the set, or is not finite.
        """

    @abstractmethod
    def size(self, shape: Sequence[int]) -> int:
        """Return how many numbers of weights a point of this shape stores; indices do not count."""

    @abstractmethod
    def tangent(self, point: Point, residual: Tensor) -> Tensor:
        """Return the part of a residual along which the set can be followed from a point, to first order.

        A point with <residual, t> = 0 for all such directions t is stationary: this is the residual of its optimality
        condition.

        Args:
            point: that `project` returned.
            residual: in the weight's shape.
        """


class SetError(ValueError):
    """A set of weights that makes no sense, or does not fit a weight."""


def check_weight(weight: Tensor) -> Tensor:
    """Return a weight without its history, in float32 at least.

    Raises:
        SetError: if it is no matrix or kernel, or not finite.
    """
    if weight.ndim < 2 or weight.numel() == 0 or not weight.is_floating_point():
        raise SetError(
            "a weight must be a real matrix (out, in) or a kernel (out, in, kh, kw) with entries, found the shape "
            f"{tuple(weight.shape)} of {weight.dtype}"
        )
    plain = weight.detach()
    if not torch.isfinite(plain).all():
        raise SetError(f"a weight must be finite, found {int((~torch.isfinite(plain)).sum())} infinite or NaN entries")
    return plain.float() if plain.dtype in {torch.float16, torch.bfloat16} else plain
