"""Draws: the fraction that a step compresses at, out of several."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import torch

from pliant.compress.atoms import check_fraction

T = TypeVar("T")


def check_fractions(fractions: object) -> None:
    """Check the fractions that steps draw from.

    Raises:
        ValueError: unless it is a tuple of at least one fraction, each in [0, 1).
    """
    if not isinstance(fractions, tuple) or not fractions:
        raise ValueError(f"fractions must be a tuple of at least one fraction, found {fractions!r}")
    for fraction in fractions:
        check_fraction(fraction)


def drawn(choices: Sequence[T], seed: int, step: int) -> T:
    """Return the choice of a step, each with the same probability: it depends on nothing but seed and step."""
    draws = torch.Generator().manual_seed(seed * 1_000_003 + step)
    return choices[int(torch.randint(len(choices), (), generator=draws))]
