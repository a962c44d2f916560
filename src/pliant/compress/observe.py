"""Observe: what layers read and write, summed up for least squares."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

from torch import Tensor, nn

from pliant.compress.least_squares import Moments
from pliant.compress.patches import batched, features
from pliant.structure.example import Example, leaves_of
from pliant.structure.matricise import axes_of, widths

T = TypeVar("T")

_AT_ONCE = 2**24  # numbers: 64 MiB


def samples_of(examples: Sequence[Example]) -> int:
    """Return how many samples batches hold."""
    return sum(_length(example) for example in examples)


def columns_of(layer: nn.Module) -> int:
    """Return how many numbers each output of a layer is a weighted sum of."""
    return int(axes_of(layer, "weight").matrix_shape(layer.get_parameter("weight").shape)[2])


def parts_of(items: Iterable[T], size: Callable[[T], int], most: int) -> Iterator[list[T]]:
    """Yield items in their order, in parts whose sizes add up to `most` or that hold one item alone."""
    part: list[T] = []
    held = 0
    for item in items:
        added = size(item)
        if part and held + added > most:
            yield part
            part, held = [], 0
        part.append(item)
        held += added
    if part:
        yield part


def places_wanted(layer: nn.Module, examples: Sequence[Example], rows: int) -> int:
    """Return at how many positions of every sample a layer is to be looked at, for so many rows a column."""
    return max(1, math.ceil(rows * columns_of(layer) / max(samples_of(examples), 1)))


def observe(moments: Moments, layer: nn.Module, inputs: Tensor, where: Tensor, wanted: Tensor) -> None:
    """Add what a layer reads at some positions, and what it is to write there.

    Args:
        moments: of the layer.
        layer: a linear layer or convolution.
        inputs: as the layer was called with.
        where: positions of the output, shape (count, dimensions).
        wanted: shape (groups, samples * count, outputs of a group), of the precision to compute in.
    """
    samples = max(1, _AT_ONCE // max(len(where) * columns_of(layer) * widths(layer)[2], 1))
    parts = batched(layer, inputs).split(samples)
    for part, rows in zip(parts, wanted.split(samples * len(where), dim=1), strict=True):
        moments.add(features(layer, part, where).to(wanted.dtype), rows)


def _length(example: Example) -> int:
    first = next(iter(leaves_of(example)), None)
    return len(first) if isinstance(first, Tensor) and first.ndim else 1


def check_fit(ridge: float, rows: int) -> None:
    """Check the options of least squares.

    Raises:
        ValueError: if one is out of range.
    """
    if not (math.isfinite(ridge) and ridge > 0.0):
        raise ValueError(f"ridge must be positive, found {ridge!r}")
    if isinstance(rows, bool) or not isinstance(rows, int) or rows < 1:
        raise ValueError(f"rows must be an int of at least 1, found {rows!r}")
