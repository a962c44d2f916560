"""Slices that a cut takes out of a tensor, and out of what an optimizer keeps beside it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

Slices = tuple[tuple[int, tuple[int, ...]], ...]  # pairs (dimension, removed positions)


class CarryError(ValueError):
    """An optimizer, an average or a scheduler that cannot follow into the smaller model; nothing was changed."""


def shape_without(name: str, shape: Sequence[int], slices: Slices) -> tuple[int, ...]:
    """Return the shape that is left of a tensor.

    Raises:
        CarryError: naming the tensor, if it has no such slice.
    """
    left = list(shape)
    for dim, removed in slices:
        if dim >= len(left) or (removed and not 0 <= min(removed) <= max(removed) < left[dim]):
            raise CarryError(f"the cut removes slices of dimension {dim} of {name!r} that shape {tuple(shape)} has not")
        left[dim] -= len(set(removed))
    return tuple(left)


def slices_beside(shape: Sequence[int], parameter: Sequence[int], slices: Slices) -> Slices | None:
    """Return what a state tensor loses when its parameter loses slices; None if its shape does not say.

    A tensor of the parameter's shape loses the same slices, a single number none. A tensor that holds one number for
    every slice along some dimensions of the parameter (factored second moments), the others left out or of size 1,
    loses the slices along those.

    >>> slices_beside((4, 1), (4, 6), ((0, (2,)), (1, (0, 5))))
    ((0, (2,)),)
    >>> slices_beside((6,), (4, 6), ((0, (2,)), (1, (0, 5))))
    ((0, (0, 5)),)

    Args:
        shape: of the state tensor.
        parameter: shape of the parameter.
        slices: what the parameter loses.
    """
    shape, lost = tuple(shape), dict(slices)
    if all(size == 1 for size in shape):
        return ()
    readings = {
        tuple((place, lost[dim]) for place, dim in enumerate(dims) if dim in lost and shape[place] > 1)
        for dims in combinations(range(len(parameter)), len(shape))
        if all(size in {parameter[dim], 1} for size, dim in zip(shape, dims, strict=True))
    }
    return readings.pop() if len(readings) == 1 else None
