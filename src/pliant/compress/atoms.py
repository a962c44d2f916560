"""Which atoms go: counts, orders and scopes, the same for filters, singular values and single weights."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pliant.spec import register

_TOLERANCE = 1e-9  # 0.7 * 10 is 7.000000000000001 or 6.999999999999999: neither may change a count


def removed_count(fraction: float, total: int) -> int:
    """Return how many of `total` atoms a fraction removes: rounded to the nearest count, halves up.

    >>> removed_count(0.8, 10), removed_count(0.9, 10), removed_count(0.5, 5)
    (8, 9, 3)
    """
    return math.floor(fraction * total + 0.5 + _TOLERANCE)


def check_fraction(fraction: float) -> float:
    """Return the fraction as a float.

    Raises:
        ValueError: unless 0 <= fraction < 1.
    """
    if isinstance(fraction, bool) or not isinstance(fraction, int | float) or not 0.0 <= fraction < 1.0:
        raise ValueError(
            f"fraction must be the share of atoms to remove, 0 <= fraction < 1 (0.9 removes nine in ten), "
            f"found {fraction!r}"
        )
    return float(fraction)


def lowest(scores: Tensor, count: int) -> Tensor:
    """Return a mask of exactly `count` smallest scores; among equal ones the first go.

    Args:
        scores: shape (n,), finite or +inf.
        count: 0 <= count <= n.
    """
    if count == 0:
        return torch.zeros_like(scores, dtype=torch.bool)
    threshold = scores.kthvalue(count).values
    mask = scores < threshold
    ties = (scores == threshold).nonzero().flatten()
    mask[ties[: count - int(mask.sum())]] = True
    return mask


class Scope(ABC):
    """Over what the atoms compete."""

    @abstractmethod
    def removed(self, scores: Sequence[Tensor], fraction: float) -> list[Tensor]:
        """Return for each layer a mask of the atoms to remove.

        Args:
            scores: one tensor of shape (atoms,) per layer; large means worth keeping.
            fraction: share of the atoms to remove, 0 <= fraction < 1.
        """


@register
@dataclass(frozen=True)
class PerLayer(Scope):
    """The same fraction of every layer.

    Args:
        minimum: atoms that stay in each layer, at least 1.
    """

    minimum: int = 1

    def __post_init__(self) -> None:
        _check_minimum(self.minimum)

    def removed(self, scores: Sequence[Tensor], fraction: float) -> list[Tensor]:
        return [lowest(s, min(removed_count(fraction, len(s)), _spare(s, self.minimum))) for s in scores]


@register
@dataclass(frozen=True)
class Global(Scope):
    """The fraction of all layers' atoms together: the smallest scores go, wherever they are.

    Args:
        minimum: atoms that stay in each layer whatever their scores, at least 1.
    """

    minimum: int = 1

    def __post_init__(self) -> None:
        _check_minimum(self.minimum)

    def removed(self, scores: Sequence[Tensor], fraction: float) -> list[Tensor]:
        if not scores:
            return []
        spare = [lowest(s, _spare(s, self.minimum)) for s in scores]
        open_scores = [s.masked_fill(~mask, math.inf) for s, mask in zip(scores, spare, strict=True)]
        total = sum(len(s) for s in scores)
        count = min(removed_count(fraction, total), sum(_spare(s, self.minimum) for s in scores))
        return list(torch.split(lowest(torch.cat(open_scores), count), [len(s) for s in scores]))


def _spare(scores: Tensor, minimum: int) -> int:
    return max(0, len(scores) - minimum)


def _check_minimum(minimum: int) -> None:
    if isinstance(minimum, bool) or not isinstance(minimum, int) or minimum < 1:
        raise ValueError(f"minimum must be a count of at least 1, found {minimum!r}")
