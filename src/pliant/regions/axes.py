"""How a weight of any layer is read as matrices: axes declared as data, never guessed from `ndim`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from pliant.spec import register


@register
@dataclass(frozen=True)
class Axes:
    """A weight as `groups` matrices whose rows are output channels (filters) and whose columns are their entries.

    The first axis of the weight is split into `groups` equal blocks; within a block the axis `out` runs over the
    output channels and all other axes are flattened, in order, into the columns. A spatial reading takes the last axis
    to the rows, which are then pairs of an output channel and a place along that axis: its low ranks are those of
    two convolutions along one axis of the kernel each.

    | weight | shape | axes |
    |---|---|---|
    | linear | (out, in) | `Axes()` |
    | convolution, g groups | (out, in / g, *kernel) | `Axes(groups=g)` |
    | the same, (out, last of the kernel) x (in / g, others) | (out, in / g, *kernel) | `Axes(groups=g, spatial=True)` |
    | transposed convolution | (in, out / g, *kernel) | `Axes(out=1, groups=g)` |
    | attention in-projection | (3 d, d) | `Axes(groups=3)` |
    | bias, norm scale, norm shift | (n,) | `Axes()` |

    Args:
        out: the axis of the output channels, 0 or positive.
        groups: number of independent blocks along axis 0, at least 1.
        spatial: whether the last axis goes with the rows; for `out=0` and weights of three axes or more.
    """

    out: int = 0
    groups: int = 1
    spatial: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.out, int) or self.out < 0:
            raise ValueError(f"out must be an axis number >= 0, found {self.out!r}")
        if not isinstance(self.groups, int) or self.groups < 1:
            raise ValueError(f"groups must be an int of at least 1, found {self.groups!r}")
        if self.spatial and self.out:
            raise ValueError(f"a spatial reading must have out=0, found {self.out}")

    def to_matrices(self, weight: Tensor, batch: int = 0) -> Tensor:
        """Return the matrices of a weight.

        Args:
            weight: shape (*batch, *weight shape); need not be contiguous.
            batch: number of leading batch dimensions.

        Returns:
            shape (*batch, groups, rows, cols).

        Raises:
            ValueError: if axis 0 cannot be split into `groups`, there is no axis `out`, or none to read spatially.
        """
        shape = weight.shape[batch:]
        self._check(shape)
        if not shape:
            return weight.reshape(*weight.shape[:batch], 1, 1, 1)
        if self.spatial:
            blocks = weight.unflatten(batch, (self.groups, -1)).movedim(-1, batch + 2)
            return blocks.flatten(batch + 3).flatten(batch + 1, batch + 2)
        if self.out == 0:  # nothing changes places
            return weight.reshape((*weight.shape[:batch], *self.matrix_shape(shape)))
        blocks = weight.unflatten(batch, (self.groups, -1))
        blocks = blocks.movedim(batch + 1 + self.out, batch + 1)
        return blocks.reshape(*blocks.shape[: batch + 2], -1)

    def from_matrices(self, matrices: Tensor, shape: Sequence[int], batch: int = 0) -> Tensor:
        """Return the weight of shape (*batch, *shape) that `to_matrices` turns into `matrices`."""
        lead = matrices.shape[:batch]
        if self.spatial:
            blocks = matrices.reshape(*lead, self.groups, shape[0] // self.groups, shape[-1], *shape[1:-1])
            return blocks.movedim(batch + 2, -1).flatten(batch, batch + 1)
        if not shape or self.out == 0:
            return matrices.reshape((*lead, *shape))
        inner = [shape[0] // self.groups, *shape[1:]]
        channels = inner.pop(self.out)
        blocks = matrices.reshape(*lead, self.groups, channels, *inner)
        return blocks.movedim(batch + 1, batch + 1 + self.out).flatten(batch, batch + 1)

    def over_channels(self, factors: Tensor, shape: Sequence[int], batch: int = 0) -> Tensor:
        """Return one factor per output channel, (*batch, channels), with dimensions to multiply (*batch, *shape)."""
        lead = factors.shape[:batch]
        if self.out == 0 or not shape:
            return factors.reshape((*lead, *shape[:1], *[1] * (len(shape) - 1)))
        blocks = factors.reshape(*lead, self.groups, 1, -1)
        blocks = blocks.expand(*lead, self.groups, shape[0] // self.groups, blocks.shape[-1])
        ones, after = [1] * (self.out - 1), [1] * (len(shape) - 1 - self.out)
        return blocks.reshape(*lead, shape[0], *ones, blocks.shape[-1], *after)

    def matrix_shape(self, shape: Sequence[int]) -> tuple[int, int, int]:
        """Return (groups, rows, cols) for a weight of this shape."""
        self._check(shape)
        rows = self.channels(shape) * (shape[-1] if self.spatial else 1)
        return self.groups, rows // self.groups, math.prod(shape) // rows

    def channels(self, shape: Sequence[int]) -> int:
        """Return the number of output channels (filters) of a weight of this shape."""
        self._check(shape)
        if not shape:
            return 1
        return shape[0] if self.out == 0 else shape[self.out] * self.groups

    def _check(self, shape: Sequence[int]) -> None:
        if self.spatial and len(shape) < 3:
            raise ValueError(f"a spatial reading must have a weight of three axes or more, found shape {tuple(shape)}")
        if not shape and self.groups == 1:
            return
        if not shape:
            raise ValueError(f"a scalar has no axis to split into groups={self.groups}; groups must be 1")
        if self.out >= len(shape):
            raise ValueError(f"axes name out={self.out}, but a weight of shape {tuple(shape)} has no such axis")
        if math.prod(shape) == 0:
            raise ValueError(f"a weight needs at least one entry, found shape {tuple(shape)}")
        if shape[0] % self.groups:
            raise ValueError(
                f"axis 0 of shape {tuple(shape)} cannot be split into groups={self.groups}; groups must divide its size"
            )
