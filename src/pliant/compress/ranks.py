"""How many singular values each layer keeps."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pliant.compress.atoms import Global, PerLayer
from pliant.spec import register

_TOLERANCE = 1e-12  # a level that a rank meets exactly must not fail by rounding


class RankRule(ABC):
    """From the layers' singular values to their ranks."""

    @abstractmethod
    def ranks(self, spectra: Sequence[Tensor], fraction: float | None, minimum: int) -> list[int]:
        """Return the rank of each layer.

        Args:
            spectra: per layer the singular values, descending, shape (groups, n); all groups get one rank.
            fraction: share of all singular values to remove, or None to use the rule's own level.
            minimum: smallest rank of a layer.

        Raises:
            ValueError: if the fraction is missing, or given together with a level.
        """


@register
@dataclass(frozen=True)
class EqualFraction(RankRule):
    """Every layer loses the same fraction of its rank."""

    def ranks(self, spectra: Sequence[Tensor], fraction: float | None, minimum: int) -> list[int]:
        _check_request("EqualFraction", fraction, None)
        masks = PerLayer(minimum).removed([s.sum(0) for s in spectra], fraction or 0.0)
        return _left(masks)


@register
@dataclass(frozen=True)
class Energy(RankRule):
    """Every layer keeps the same share of the sum of its singular values, with as few of them as possible.

    The level is found such that the asked fraction of all singular values of all layers goes, or given.

    Args:
        level: share to keep, 0 < level <= 1; used when `select` gets no fraction.
    """

    level: float | None = None

    def __post_init__(self) -> None:
        _check_level("level", self.level, lowest_open=True)

    def ranks(self, spectra: Sequence[Tensor], fraction: float | None, minimum: int) -> list[int]:
        _check_request("Energy", fraction, self.level)
        bound = None if self.level is None else 1.0 - self.level
        return _ranks([_tail(s.sum(0)) for s in spectra], fraction, bound, minimum)


@register
@dataclass(frozen=True)
class SquaredEnergy(RankRule):
    """Every layer keeps the same share of the sum of its squared singular values (its squared Frobenius norm).

    Args:
        level: share to keep, 0 < level <= 1; used when `select` gets no fraction.
    """

    level: float | None = None

    def __post_init__(self) -> None:
        _check_level("level", self.level, lowest_open=True)

    def ranks(self, spectra: Sequence[Tensor], fraction: float | None, minimum: int) -> list[int]:
        _check_request("SquaredEnergy", fraction, self.level)
        bound = None if self.level is None else 1.0 - self.level
        return _ranks([_tail(s.square().sum(0)) for s in spectra], fraction, bound, minimum)


@register
@dataclass(frozen=True)
class EqualError(RankRule):
    """Every layer gets the same relative error norm_F(W - W_r) / norm_F(W), with as small ranks as possible.

    Since that error is sqrt(1 - share of squared energy), this is the family of `SquaredEnergy` in other units: at one
    fraction both choose the same ranks, and EqualError(level=e) is SquaredEnergy(level=1 - e**2).

    Args:
        level: largest relative error of a layer, 0 <= level < 1; used when `select` gets no fraction.
    """

    level: float | None = None

    def __post_init__(self) -> None:
        _check_level("level", self.level, lowest_open=False)

    def ranks(self, spectra: Sequence[Tensor], fraction: float | None, minimum: int) -> list[int]:
        _check_request("EqualError", fraction, self.level)
        bound = None if self.level is None else self.level**2
        return _ranks([_tail(s.square().sum(0)) for s in spectra], fraction, bound, minimum)


def _tail(energy: Tensor) -> Tensor:
    """Return for each position the share of the energy from there to the end: what is lost if it and the rest go."""
    tail = energy.flip(0).cumsum(0).flip(0)
    return tail / tail[0] if tail[0] > 0 else tail


def _ranks(tails: Sequence[Tensor], fraction: float | None, bound: float | None, minimum: int) -> list[int]:
    """Remove the positions of smallest tails: as many as the fraction says, or all within the bound."""
    if bound is None:
        return _left(Global(minimum).removed(tails, fraction or 0.0))
    return [max(min(minimum, len(t)), int((t > bound + _TOLERANCE).sum())) for t in tails]


def _left(masks: Sequence[Tensor]) -> list[int]:
    return [int(torch.logical_not(mask).sum()) for mask in masks]


def _check_request(name: str, fraction: float | None, level: float | None) -> None:
    if fraction is None and level is None:
        raise ValueError(f"fraction must be given, 0 <= fraction < 1: {name} has no level of its own here")
    if fraction is not None and level is not None:
        raise ValueError(f"fraction must be None when {name} has a level, found fraction={fraction}, level={level}")


def _check_level(name: str, level: float | None, *, lowest_open: bool) -> None:
    if level is None:
        return
    inside = 0.0 < level <= 1.0 if lowest_open else 0.0 <= level < 1.0
    if not inside:
        allowed = "0 < level <= 1" if lowest_open else "0 <= level < 1"
        raise ValueError(f"{name} must satisfy {allowed}, found {level!r}")
