"""Laws of the norm, the dual norm, the diameter, the gap, and what follows from the norm alone."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from pliant.regions import Ball
from pliant.testing.case import Case, Point, minus, plus, scaled
from pliant.testing.violation import require


def value_is_a_norm(case: Case) -> None:
    """f(c x) = |c| f(x), f(x + y) <= f(x) + f(y), f(-x) = f(x), f(0) = 0 and f(x) > 0 otherwise."""
    _require_norm(case, case.value, "value")


def dual_is_a_norm(case: Case) -> None:
    """The same axioms for the dual norm."""
    _require_norm(case, case.dual, "dual")


def hoelder(case: Case) -> None:
    """|<x, g>| <= value(x) * dual(g)."""
    generator = case.draws("hoelder")
    points = list(case.directions(generator))
    for g in case.directions(generator):
        for x in points:
            found = case.dot(x, g).abs()
            allowed = case.value(x) * case.dual(g) + case.slack * case.length(x) * case.length(g)
            require(bool((found <= allowed).all()), "|<x, g>| <= value(x) dual(g)", case, found, allowed)


def vertices_are_on_the_boundary(case: Case) -> None:
    """value(lmo(g)) = radius for g != 0: a linear function is minimised on the boundary."""
    for g in case.directions(case.draws("boundary")):
        found, radius = case.value(case.lmo(g)), case.region.radius
        allowed = radius * (1.0 - case.slack)
        holds = (found >= allowed) | (case.dual(g) == 0)
        require(bool(holds.all()), "value(lmo(g)) = radius", case, found, radius)


def contains_agrees_with_value(case: Case) -> None:
    """contains(x, tol) holds if and only if value(x) <= radius (1 + tol); never for NaN (or an error)."""
    for x in case.directions(case.draws("contains")):
        if bool((case.value(x) == 0).any()):
            continue
        inside, outside = case.at_radius(x, 1.0), case.at_radius(x, 1.0 + 4.0 * case.slack)
        require(case.contains(inside, case.slack), "contains points at the radius", case, "no", "yes")
        require(not case.contains(outside, case.slack), "excludes points beyond it", case, "yes", "no")
    require(not _contains_nan(case), "excludes NaN", case, "yes", "no")


def scale_into_is_radial(case: Case) -> None:
    """scale_into(x) = x min(1, radius / value(x)): feasible, on the ray of x, the identity inside."""
    for x in case.directions(case.draws("radial")):
        for share in (0.5, 1e-3, 3.0, 1e3):
            y = case.at_radius(x, share)
            found = case.scale_into(y)
            require(case.contains(found, case.slack), "scale_into(x) is feasible", case, case.value(found), "")
            expected = y if share < 1.0 else case.at_radius(x, 1.0)
            distance = case.length(minus(found, expected))
            allowed = case.slack * case.length(expected) if share > 1.0 else case.zeros()
            law = f"scale_into(x) is radial at {share:g} of the radius"
            require(bool((distance <= allowed).all()), law, case, distance, allowed)


def gap_is_its_definition(case: Case) -> None:
    """gap(x, g) = <x - lmo(g), g>."""
    generator = case.draws("gap")
    points = list(case.feasible(generator))
    for g in case.directions(generator):
        v = case.lmo(g)
        for x in points:
            error = case.gap(x, g) - case.dot(minus(x, v), g)
            allowed = case.slack * case.length(g) * (case.length(x) + case.length(v))
            require(bool((error.abs() <= allowed).all()), "gap(x, g) = <x - lmo(g), g>", case, error, allowed)


def gap_is_nonnegative(case: Case) -> None:
    """gap(x, g) >= 0 for every feasible x, and gap(lmo(g), g) = 0."""
    generator = case.draws("gap sign")
    points = list(case.feasible(generator))
    for g in case.directions(generator):
        v = case.lmo(g)
        for x in points:
            found = case.gap(x, g)
            allowed = -case.slack * case.length(g) * (case.length(x) + case.length(v))
            require(bool((found >= allowed).all()), "gap(x, g) >= 0", case, found, allowed)
        found, allowed = case.gap(v, g).abs(), 2.0 * case.slack * case.length(g) * case.length(v)
        require(bool((found <= allowed).all()), "gap(lmo(g), g) = 0", case, found, allowed)


def diameter_bounds_distances(case: Case) -> None:
    """|x - y|_2 <= diameter for all feasible x and y."""
    points = list(case.feasible(case.draws("diameter")))
    allowed = case.diameter() * (1.0 + case.slack)
    for x in points:
        for y in (*points, scaled(x, -1.0)):
            found = case.length(minus(x, y))
            require(bool((found <= allowed).all()), "|x - y| <= diameter", case, found, allowed)


def diameter_is_attained(case: Case) -> None:
    """2 max |v|_2 over the region is the diameter, by the ascent v <- -lmo(v), which never shortens v.

    Since |-lmo(v)| >= <-lmo(v), v> / |v| >= |v| for feasible v; on a symmetric norm of magnitudes the ascent ends at
    one atom or at equal atoms. With different `scales` in a view the diameter is an upper bound: not checked.
    """
    if isinstance(case.region, Ball) and len(set(case.region.view.scales)) > 1:
        return
    v = case.normal(case.draws("attained"))
    for _ in range(50):
        v = scaled(case.lmo(v), -1.0)
    found, allowed = 2.0 * case.length(v), case.diameter() * (1.0 - case.slack)
    require(bool((found >= allowed).all()), "the diameter is attained", case, found, allowed)


def _require_norm(case: Case, norm: Callable[[Point], Tensor], name: str) -> None:
    generator = case.draws(name)
    for x in case.directions(generator):
        y = case.normal(generator)
        f, g = norm(x), norm(y)
        _require_equal(case, norm(scaled(x, -1.0)), f, f"{name}(-x) = {name}(x)")
        for c in (-0.25, 8.0):
            _require_equal(case, norm(scaled(x, c)), abs(c) * f, f"{name}(c x) = |c| {name}(x), c = {c}")
        total = norm(tuple(part.to(case.dtype) for part in plus(x, y)))
        allowed = (f + g) * (1.0 + case.slack)
        require(bool((total <= allowed).all()), f"{name}(x + y) <= {name}(x) + {name}(y)", case, total, allowed)
        require(bool(((f > 0) | (case.length(x) == 0)).all()), f"{name}(x) > 0 for x != 0", case, f, "> 0")
    require(bool((norm(case.constant(0.0)) == 0).all()), f"{name}(0) = 0", case, norm(case.constant(0.0)), 0)


def _require_equal(case: Case, found: Tensor, expected: Tensor, law: str) -> None:
    require(bool(((found - expected).abs() <= case.slack * expected).all()), law, case, found, expected)


def _contains_nan(case: Case) -> bool:
    try:
        return case.contains(case.constant(float("nan")), 1.0)
    except RuntimeError:  # a factorisation that refuses NaN
        return False
