"""FixedMaps: the linear maps without weights between an activation and the next layer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn


class FixedMap(ABC):
    """B, linear, without parameters, sample by sample."""

    @abstractmethod
    def apply(self, v: Tensor) -> Tensor:
        """Return B v."""

    @abstractmethod
    def adjoint(self, r: Tensor, shape: Sequence[int]) -> Tensor:
        """Return B^T r for v of a shape, the samples first."""


@final
@dataclass(frozen=True)
class Flat(FixedMap):
    """All entries of a sample in one row."""

    def apply(self, v: Tensor) -> Tensor:
        return v.flatten(1)

    def adjoint(self, r: Tensor, shape: Sequence[int]) -> Tensor:
        return r.reshape(*shape)


@final
@dataclass(frozen=True, eq=False)
class Pooled(FixedMap):
    """Average pooling over windows.

    Args:
        module: that says which.
    """

    module: nn.AvgPool2d

    def apply(self, v: Tensor) -> Tensor:
        return torch.ops.aten.avg_pool2d.default(v, *self._window)

    def adjoint(self, r: Tensor, shape: Sequence[int]) -> Tensor:
        like = r.new_zeros(1).expand(*shape)  # only its shape is read
        return torch.ops.aten.avg_pool2d_backward.default(r, like, *self._window)

    @property
    def _window(self) -> tuple[object, ...]:
        own = self.module
        pairs = [_pair(value) for value in (own.kernel_size, own.stride, own.padding)]
        return *pairs, own.ceil_mode, own.count_include_pad, own.divisor_override


@final
@dataclass(frozen=True, eq=False)
class PooledTo(FixedMap):
    """Average pooling to a given size.

    Args:
        module: that says which.
    """

    module: nn.AdaptiveAvgPool2d

    def apply(self, v: Tensor) -> Tensor:
        return self.module.forward(v)

    def adjoint(self, r: Tensor, shape: Sequence[int]) -> Tensor:
        if r.shape[2:] == (1, 1):
            return (r / (shape[2] * shape[3])).expand(*shape).contiguous()
        like = r.new_zeros(1).expand(*shape)
        return torch.ops.aten._adaptive_avg_pool2d_backward.default(r, like)  # noqa: SLF001  (its public name)


@dataclass(frozen=True)
class FixedMaps:
    """B_n ... B_1, such as average pooling and then flattening; the identity if there are none.

    Args:
        maps: in this order.
    """

    maps: tuple[FixedMap, ...] = ()

    def then(self, last: FixedMap) -> FixedMaps:
        """Return the maps followed by one more."""
        return FixedMaps((*self.maps, last))

    def apply(self, v: Tensor) -> Tensor:
        """Return B v."""
        for one in self.maps:
            v = one.apply(v)
        return v

    def shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Return that of B v for v of a shape, the samples first."""
        return tuple(self.apply(torch.empty(*shape, device="meta")).shape)

    def adjoint(self, r: Tensor, shape: Sequence[int]) -> Tensor:
        """Return B^T r for v of a shape, the samples first."""
        shapes = [tuple(shape)]
        for one in self.maps[:-1]:
            shapes.append(FixedMaps((one,)).shape(shapes[-1]))
        for one, before in zip(reversed(self.maps), reversed(shapes), strict=False):
            r = one.adjoint(r, before)
        return r


def _pair(value: int | tuple[int, int]) -> list[int]:
    return [value, value] if isinstance(value, int) else list(value)
