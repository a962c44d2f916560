"""Modes: how a weight becomes a tensor with one dimension for each core of its train, and back."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from pliant.tensor_train.errors import TrainError


class Modes(ABC):
    """A one-to-one correspondence between the entries of a weight and (some of) those of a tensor."""

    @property
    @abstractmethod
    def sizes(self) -> tuple[int, ...]:
        """Return the shape (n_1, ..., n_m) of the tensor."""

    @abstractmethod
    def channels(self, shape: Sequence[int]) -> tuple[int, int]:
        """Return how many outputs and inputs there are, for a weight of this shape, those of zeros included."""

    @abstractmethod
    def fold(self, weight: Tensor) -> Tensor:
        """Return the tensor of a weight; entries that no weight has are zero."""

    @abstractmethod
    def unfold(self, tensor: Tensor, shape: Sequence[int]) -> Tensor:
        """Return the weight of this shape that a tensor holds."""


@dataclass(frozen=True)
class RowMajor(Modes):
    """The entries of the weight in order, whatever rows and columns mean: a plain reshape.

    Args:
        shape: of the tensor.
    """

    shape: tuple[int, ...]

    @property
    def sizes(self) -> tuple[int, ...]:
        return self.shape

    def channels(self, shape: Sequence[int]) -> tuple[int, int]:
        return shape[0], shape[1]

    def fold(self, weight: Tensor) -> Tensor:
        return weight.reshape(self.shape)

    def unfold(self, tensor: Tensor, shape: Sequence[int]) -> Tensor:
        return tensor.reshape(tuple(shape))


@dataclass(frozen=True)
class MatrixModes(Modes):
    """Mode k holds a factor of the output index and one of the input index: n_k = rows[k] * columns[k].

    The output index is (o_1, ..., o_d) in row-major order, the input index (i_1, ..., i_d). The window of a kernel, if
    it has more than one place, is a mode of its own. Where the factors multiply to more than there are channels, the
    weight is continued by zeros.

    Args:
        rows: factors of the number of outputs, one for each mode; 1 where a mode has inputs alone.
        columns: factors of the number of inputs.
        window: shape of the kernel's window; empty without one.
        place: number of the modes in front of the window's.
    """

    rows: tuple[int, ...]
    columns: tuple[int, ...]
    window: tuple[int, ...] = ()
    place: int = 0

    def __post_init__(self) -> None:
        counts = (*self.rows, *self.columns, *self.window)
        if len(self.rows) != len(self.columns) or any(type(n) is not int or n < 1 for n in counts):
            raise TrainError(
                f"rows and columns must be as many counts of at least 1, found {self.rows} and {self.columns}"
            )
        if not 0 <= self.place <= len(self.rows):
            raise TrainError(f"place must be between 0 and {len(self.rows)}, the number of modes, found {self.place!r}")

    @property
    def windowed(self) -> bool:
        """Tell whether the window has a mode of its own."""
        return math.prod(self.window) > 1

    @property
    def sizes(self) -> tuple[int, ...]:
        pairs = [rows * columns for rows, columns in zip(self.rows, self.columns, strict=True)]
        window = [math.prod(self.window)] if self.windowed else []
        return (*pairs[: self.place], *window, *pairs[self.place :])

    def channels(self, shape: Sequence[int]) -> tuple[int, int]:  # noqa: ARG002  (the factors say it)
        return math.prod(self.rows), math.prod(self.columns)

    def fold(self, weight: Tensor) -> Tensor:
        flat = weight.reshape(*weight.shape[:2], -1)
        outputs, inputs = self.channels(weight.shape)
        flat = F.pad(flat, (0, 0, 0, inputs - flat.shape[1], 0, outputs - flat.shape[0]))
        return flat.reshape(*self.rows, *self.columns, -1).permute(self._order()).reshape(self.sizes)

    def unfold(self, tensor: Tensor, shape: Sequence[int]) -> Tensor:
        order = self._order()
        split = [*self.rows, *self.columns, math.prod(self.window)]
        parts = tensor.reshape([split[axis] for axis in order])
        back = parts.permute([order.index(axis) for axis in range(len(order))])
        flat = back.reshape(*self.channels(shape), -1)
        return flat[: shape[0], : shape[1]].reshape(tuple(shape))

    def _order(self) -> list[int]:
        """Return how (rows, columns, window) are interleaved."""
        count = len(self.rows)
        pairs = [axis for mode in range(count) for axis in (mode, count + mode)]
        return [*pairs[: 2 * self.place], 2 * count, *pairs[2 * self.place :]]
