"""How much an output channel matters."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from pliant.spec import register
from pliant.structure.channels import ChannelGroup


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
    """A score per output channel; the atoms of smallest score are removed first.

    Whatever the score, an atom of filters that are exactly zero is the first: what is behind them is a constant.
    """

    power: ClassVar[float] = 2.0  # an atom of several channels scores (sum of their scores ** power) ** (1 / power)

    @abstractmethod
    def of(self, channels: Channels) -> Tensor:
        """Return finite, non-negative scores of shape (channels,); anything else is refused."""


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


@register
@dataclass(frozen=True)
class Given:
    """Scores of atoms that were measured, by `backward_elimination` or by anybody else, for one model.

    They are compared as they are, also across groups (under `Global`), and budgets take their squares for losses that
    add up: with x_a the loss without atom a, by a Taylor expansion say, the scores are the roots of x_a.

    Args:
        values: pairs of the name of a group (the first layer that makes its channels) and the scores of its atoms.

    Raises:
        ValueError: if a group is named twice, or a score is negative or not finite.
    """

    values: tuple[tuple[str, tuple[float, ...]], ...]

    def __post_init__(self) -> None:
        names = [name for name, _ in self.values]
        for name, scores in self.values:
            if names.count(name) > 1:
                raise ValueError(f"values: each group must be named once, found {name!r} {names.count(name)} times")
            if not all(math.isfinite(score) and score >= 0.0 for score in scores):
                raise ValueError(f"the scores of {name!r} must be finite and not negative, found {scores!r:.80}")

    @classmethod
    def of(cls, scores: Mapping[str, Tensor | Sequence[float]]) -> Given:
        """Return the scores in a mapping from names to vectors."""
        return cls(tuple((name, tuple(map(float, values))) for name, values in scores.items()))

    def atoms(self, group: ChannelGroup) -> Tensor:
        """Return the scores of a group's atoms, shape (atoms,), float64.

        Raises:
            ValueError: if there are none, or those of another model.
        """
        found = dict(self.values).get(group.name)
        if found is None or len(found) != group.atoms:
            told = "none" if found is None else str(len(found))
            raise ValueError(
                f"group {group.name!r} needs {group.atoms} scores, found {told}: measure them for this model, with "
                "the same layers and ignore"
            )
        return torch.tensor(found, dtype=torch.float64)


def _lengths(rows: Tensor) -> Tensor:
    lengths: Tensor = torch.linalg.vector_norm(rows, dim=1)
    return lengths


def _positive(x: Tensor) -> Tensor:
    return torch.where(x > 0, x, 1.0)
