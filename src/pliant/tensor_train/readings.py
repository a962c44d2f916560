"""Readings: which modes the weight of a layer gets."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from pliant.spec import register
from pliant.tensor_train.errors import TrainError
from pliant.tensor_train.factorise import nearly_equal
from pliant.tensor_train.modes import MatrixModes, Modes, RowMajor


class Reading(ABC):
    """From the shape of a weight to the modes of its train."""

    @abstractmethod
    def modes(self, shape: Sequence[int]) -> Modes:
        """Return the modes.

        Args:
            shape: (out, in) or (out, in, kh, kw).

        Raises:
            TrainError: if a weight of this shape cannot be read so.
        """


@register
@dataclass(frozen=True)
class Paired(Reading):
    """Every mode holds a factor of the outputs and one of the inputs: the TT-matrix. The window comes first.

    Small factors of the outputs meet large ones of the inputs, so that the modes are of nearly equal size. With two
    cores a train is a sum of Kronecker products.

    Args:
        cores: number of factors of the outputs, and of the inputs, at least 2.

    Raises:
        TrainError: if it is less.

    Reference: Novikov, Podoprikhin, Osokin, Vetrov (2015); for kernels Garipov, Podoprikhin, Novikov, Vetrov (2016).
    """

    cores: int = 2

    def __post_init__(self) -> None:
        _check_count("cores", self.cores, 2)

    def modes(self, shape: Sequence[int]) -> MatrixModes:
        outputs, inputs, window = _split(shape)
        return _pruned(nearly_equal(outputs, self.cores), nearly_equal(inputs, self.cores)[::-1], window, 0)


@register
@dataclass(frozen=True)
class Separate(Reading):
    """Modes of the outputs, then the window, then modes of the inputs.

    The bond in the middle bounds the rank of the matrix. With one mode each a linear layer becomes two, and a
    convolution three: to few channels, over the window, to the old number of channels.

    Args:
        rows: number of factors of the outputs, at least 1.
        columns: number of factors of the inputs, at least 1.

    Raises:
        TrainError: if one of them is less.

    Reference: Oseledets (2011).
    """

    rows: int = 1
    columns: int = 1

    def __post_init__(self) -> None:
        _check_count("rows", self.rows, 1)
        _check_count("columns", self.columns, 1)

    def modes(self, shape: Sequence[int]) -> MatrixModes:
        outputs, inputs, window = _split(shape)
        rows = (*nearly_equal(outputs, self.rows), *[1] * self.columns)
        columns = (*[1] * self.rows, *nearly_equal(inputs, self.columns)[::-1])
        return _pruned(rows, columns, window, self.rows)


@register
@dataclass(frozen=True)
class Reshaped(Reading):
    """The entries of the weight in order, reshaped to given sizes, which may mix outputs and inputs.

    Args:
        sizes: of the modes; their product must be the number of entries of every weight that is read.

    Raises:
        TrainError: if there are less than two, or one is no count.
    """

    sizes: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(self.sizes) < 2 or any(type(size) is not int or size < 1 for size in self.sizes):
            raise TrainError(f"sizes must be at least two counts, found {self.sizes!r}")

    def modes(self, shape: Sequence[int]) -> RowMajor:
        if math.prod(self.sizes) != math.prod(shape):
            raise TrainError(
                f"sizes must multiply to {math.prod(shape):,}, the entries of a weight of shape {tuple(shape)}, found "
                f"{self.sizes}, which multiply to {math.prod(self.sizes):,}"
            )
        return RowMajor(tuple(self.sizes))


def _split(shape: Sequence[int]) -> tuple[int, int, tuple[int, ...]]:
    if len(shape) < 2 or math.prod(shape) == 0:
        raise TrainError(f"a weight must have outputs, inputs and entries, found the shape {tuple(shape)}")
    return shape[0], shape[1], tuple(shape[2:])


def _pruned(rows: Sequence[int], columns: Sequence[int], window: tuple[int, ...], place: int) -> MatrixModes:
    """Return the modes without those of size 1; at least one stays."""
    pairs = list(zip(rows, columns, strict=True))
    front = [pair for pair in pairs[:place] if pair != (1, 1)]
    back = [pair for pair in pairs[place:] if pair != (1, 1)]
    kept = [*front, *back] or [(1, 1)]
    return MatrixModes(tuple(o for o, _ in kept), tuple(i for _, i in kept), window, len(front))


def _check_count(name: str, value: object, least: int) -> None:
    if type(value) is not int or value < least:
        raise TrainError(f"{name} must be a count of at least {least}, found {value!r}")
