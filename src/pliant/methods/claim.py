"""Claim: what "without retraining" means for a method, so that tables never mix three different things."""

from __future__ import annotations

from enum import StrEnum

from pliant.spec import register


@register
class Claim(StrEnum):
    """What one training run of a method is good for."""

    ANY_RATIO = "any ratio"
    """One checkpoint; the ratio is chosen afterwards, and no gradient step follows the cut."""

    ONE_RATIO = "one ratio"
    """The ratio, or what decides it, is chosen before training: a curve costs one run for every ratio."""

    RETRAINED = "retrained"
    """Gradient steps follow the cut."""

    @property
    def runs(self) -> str:
        """Training runs that a curve over ratios costs."""
        return "1" if self is Claim.ANY_RATIO else "1 a ratio"
