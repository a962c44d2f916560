"""Laws of the Euclidean projection, in the metric of the view's `scales`: sum_t s_t^2 |x_t|^2."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import torch

from pliant.regions import Ball
from pliant.testing.case import Case, Point, minus
from pliant.testing.violation import require

SHARES = (0.9, 1.001, 2.0, 50.0)


def project_is_feasible(case: Case) -> None:
    """value(project(x)) <= radius, and every entry is finite."""
    for x in _points(case):
        p = case.project(x)
        require(all(bool(part.isfinite().all()) for part in p), "project(x) is finite", case, "not", "finite")
        found, allowed = case.value(p), case.region.radius * (1.0 + case.slack)
        require(bool((found <= allowed).all()), "project(x) is feasible", case, found, allowed)


def project_keeps_feasible_points(case: Case) -> None:
    """project(x) = x for feasible x: bit for bit inside, up to rounding on the boundary."""
    for x in case.feasible(case.draws("inside")):
        p = case.project(x)
        if bool((case.value(x) <= case.region.radius * (1.0 - case.slack)).all()):
            same = all(torch.equal(a, b) for a, b in zip(p, x, strict=True))
            require(same, "project(x) = x inside", case, "another point", "the same bits")
        distance, allowed = case.length(minus(p, x)), case.slack * case.length(x)
        require(bool((distance <= allowed).all()), "project(x) = x on the boundary", case, distance, allowed)


def project_is_idempotent(case: Case) -> None:
    """project(project(x)) = project(x)."""
    for x in _points(case):
        p = case.project(x)
        distance, allowed = case.length(minus(case.project(p), p)), case.slack * case.length(p)
        require(bool((distance <= allowed).all()), "project is idempotent", case, distance, allowed)


def project_is_nearest(case: Case) -> None:
    """<x - p, y - p> <= 0 for p = project(x) and every feasible y: the variational inequality.

    The worst y is a vertex, lmo(p - x), which is among those tried.
    """
    weights = _metric(case)
    feasible = list(case.feasible(case.draws("variational")))
    for x in _points(case):
        p = case.project(x)
        away = minus(x, p)
        pull = tuple((-w * part).to(case.dtype) for w, part in zip(weights, away, strict=True))
        for y in (*feasible, case.lmo(pull)):
            found = case.dot(away, minus(y, p), weights)
            # p is known up to slack |x|, as its magnitudes are differences of those of x.
            ends = case.length(away, weights) + case.length(minus(y, p), weights)
            allowed = case.slack * case.length(x, weights) * ends
            require(bool((found <= allowed).all()), "<x - p, y - p> <= 0", case, found, allowed)


def _metric(case: Case) -> tuple[float, ...]:
    region = case.region
    return tuple(s * s for s in region.view.scales) if isinstance(region, Ball) else (1.0,) * len(case.shapes)


def _points(case: Case) -> Iterator[Point]:
    shares = itertools.cycle(SHARES)
    for x in case.directions(case.draws("outside")):
        yield case.at_radius(x, next(shares))
