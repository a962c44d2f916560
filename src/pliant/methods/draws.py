"""Draws: the fraction that a step compresses at, out of several."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from pliant.compress.atoms import check_fraction


def check_fractions(fractions: object) -> None:
    """Check the fractions that steps draw from.

    Raises:
        ValueError: unless it is a tuple of at least one fraction, each in [0, 1).
    """
    if not isinstance(fractions, tuple) or not fractions:
        raise ValueError(f"fractions must be a tuple of at least one fraction, found {fractions!r}")
    for fraction in fractions:
        check_fraction(fraction)


def drawn(fractions: Sequence[float], seed: int, step: int) -> float:
    """Return the fraction of a step, each with the same probability: it depends on nothing but seed and step."""
    draws = torch.Generator().manual_seed(seed * 1_000_003 + step)
    return fractions[int(torch.randint(len(fractions), (), generator=draws))]
