"""Every ball of the literature by its name: one line each, and the table of names."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from pliant.regions.axes import Axes
from pliant.regions.ball import Ball
from pliant.regions.gauges import Lp, TopK
from pliant.regions.views import Entries, Filters, Singular


def l1_ball(radius: float) -> Ball:
    """{x : sum of absolute values <= radius}."""
    return Ball(TopK(1), Entries(), radius)


def l2_ball(radius: float) -> Ball:
    """{x : Euclidean norm <= radius}."""
    return Ball(Lp(2.0), Entries(), radius)


def linf_ball(radius: float) -> Ball:
    """{x : largest absolute value <= radius}."""
    return Ball(Lp(math.inf), Entries(), radius)


def lp_ball(p: float, radius: float) -> Ball:
    """{x : l_p norm <= radius}, 1 <= p <= infinity."""
    return Ball(Lp(p), Entries(), radius)


def k_support_ball(k: float, radius: float) -> Ball:
    """Radius times conv{x : at most k non-zero entries, Euclidean norm <= 1}."""
    return Ball(TopK(k), Entries(), radius)


def k_sparse_polytope(k: float, radius: float) -> Ball:
    """Radius times conv{x : at most k non-zero entries, each in [-1, 1]}."""
    return Ball(TopK(k, math.inf), Entries(), radius)


def group_lasso_ball(radius: float, axes: Axes = Axes()) -> Ball:
    """{x : sum of the filters' Euclidean norms <= radius}."""
    return Ball(TopK(1), Filters(axes), radius)


def group_k_support_ball(k: float, radius: float, axes: Axes = Axes()) -> Ball:
    """Radius times conv{x : at most k non-zero filters, Euclidean norm <= 1}."""
    return Ball(TopK(k), Filters(axes), radius)


def group_k_sparse_polytope(k: float, radius: float, axes: Axes = Axes()) -> Ball:
    """Radius times conv{x : at most k non-zero filters, each of Euclidean norm <= 1}."""
    return Ball(TopK(k, math.inf), Filters(axes), radius)


def nuclear_ball(radius: float, axes: Axes = Axes()) -> Ball:
    """{x : sum of singular values <= radius}."""
    return Ball(TopK(1), Singular(axes), radius)


def spectral_ball(radius: float, axes: Axes = Axes()) -> Ball:
    """{x : largest singular value <= radius}."""
    return Ball(Lp(math.inf), Singular(axes), radius)


def spectral_k_support_ball(k: float, radius: float, axes: Axes = Axes()) -> Ball:
    """Radius times conv{x : rank at most k, Frobenius norm <= 1}."""
    return Ball(TopK(k), Singular(axes), radius)


def spectral_k_sparse_polytope(k: float, radius: float, axes: Axes = Axes()) -> Ball:
    """Radius times conv{x : rank at most k, largest singular value <= 1}."""
    return Ball(TopK(k, math.inf), Singular(axes), radius)


CATALOGUE: dict[str, Callable[..., Any]] = {
    ball.__name__.replace("_", "-"): ball
    for ball in (
        l1_ball,
        l2_ball,
        linf_ball,
        lp_ball,
        k_support_ball,
        k_sparse_polytope,
        group_lasso_ball,
        group_k_support_ball,
        group_k_sparse_polytope,
        nuclear_ball,
        spectral_ball,
        spectral_k_support_ball,
        spectral_k_sparse_polytope,
    )
}
