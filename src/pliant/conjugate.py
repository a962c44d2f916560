"""Conjugate gradients on many systems at once."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor


def conjugate_gradients(system: Callable[[Tensor], Tensor], right: Tensor, steps: int) -> Tensor:
    """Return x after some steps from x = 0, each of which lowers <x, H x> / 2 - <right, x>.

    Every sample has step sizes of its own: what becomes of it does not depend on the others. Nothing is read back to
    the host.

    Args:
        system: H, symmetric and positive definite on each sample.
        right: shape (samples, ...).
        steps: at least 1.

    Reference: Hestenes, Stiefel (1952).
    """
    x = right.new_zeros(right.shape)
    residual = direction = right
    square = _dot(residual, residual)
    for _ in range(steps):
        image = system(direction)
        length = _ratio(square, _dot(direction, image))
        x = x + length * direction
        residual = residual - length * image
        square, before = _dot(residual, residual), square
        direction = residual + _ratio(square, before) * direction
    return x


def _dot(one: Tensor, other: Tensor) -> Tensor:
    return (one * other).flatten(1).sum(1).reshape(-1, *[1] * (one.ndim - 1))


def _ratio(above: Tensor, below: Tensor) -> Tensor:
    """Return above / below, and 0 where a sample is solved already."""
    return (above / below).where(below > 0.0, 0.0)
