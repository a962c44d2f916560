"""How much an output channel matters."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from pliant.spec import register


@dataclass(frozen=True)
class Channels:
    """The tensors of one layer, slice i of each belonging to output channel i.

    Args:
        filters: shape (channels, entries).
        bias: shape (channels,), or None.
        normed: whether a norm layer follows.
        scale: the norm layer's scale, shape (channels,), or None.
        shift: its shift, shape (channels,), or None.
        deviation: what it divides by in evaluation mode, sqrt(running variance + eps), shape (channels,); None if it
            keeps no running statistics.
    """

    filters: Tensor
    bias: Tensor | None = None
    normed: bool = False
    scale: Tensor | None = None
    shift: Tensor | None = None
    deviation: Tensor | None = None


class Score(ABC):
    """A score per output channel; the atoms of smallest score are removed first."""

    power: ClassVar[float] = 2.0  # an atom of several channels scores (sum of their scores ** power) ** (1 / power)

    @abstractmethod
    def of(self, channels: Channels) -> Tensor:
        """Return non-negative scores of shape (channels,)."""


@register
@dataclass(frozen=True)
class L1(Score):
    """Sum of the absolute values of the filter's weights.

    Reference: Li et al. 2017, "Pruning filters for efficient ConvNets".
    """

    power: ClassVar[float] = 1.0

    def of(self, channels: Channels) -> Tensor:
        return channels.filters.abs().sum(1)


@register
@dataclass(frozen=True)
class L2(Score):
    """Euclidean norm of the filter's weights."""

    def of(self, channels: Channels) -> Tensor:
        return _lengths(channels.filters)


@register
@dataclass(frozen=True)
class GroupNorm(Score):
    """Euclidean norm of the whole atom: filter, norm scale and norm shift, none of them drowning the others.

    The filter counts in units of the Euclidean norm of the layer's weight, the scale in units of the norm of all
    scales, the shift in units of the larger of the norms of scales and shifts. Without a norm layer the bias takes
    the place of the shift, in units of the larger of the norms of weight and bias.
    """

    def of(self, channels: Channels) -> Tensor:
        weight = channels.filters.norm()
        parts = [_lengths(channels.filters) / _positive(weight)]
        if channels.scale is not None:
            parts.append(channels.scale / _positive(channels.scale.norm()))
        shift, other = (channels.shift, channels.scale) if channels.normed else (channels.bias, weight)
        if shift is not None:
            unit = shift.norm() if other is None else torch.maximum(shift.norm(), other.norm())
            parts.append(shift / _positive(unit))
        return _lengths(torch.stack(parts, dim=1))


@register
@dataclass(frozen=True)
class Folded(Score):
    """Euclidean norm of the filter that the layer really applies, the norm layer's scale multiplied into it.

    With batch norm in evaluation mode: |scale_i| / sqrt(running variance_i + eps) * norm_2(filter_i). Where the norm
    layer uses the statistics of its input (instance norm) the filter's length cancels and |scale_i| is left. Shifts and
    biases, which add a constant, do not count.
    """

    def of(self, channels: Channels) -> Tensor:
        length = _lengths(channels.filters)
        if not channels.normed:
            return length
        scale = torch.ones_like(length) if channels.scale is None else channels.scale.abs()
        return scale if channels.deviation is None else scale / channels.deviation * length


def _lengths(rows: Tensor) -> Tensor:
    lengths: Tensor = torch.linalg.vector_norm(rows, dim=1)
    return lengths


def _positive(x: Tensor) -> Tensor:
    return torch.where(x > 0, x, 1.0)
