"""Laws of the linear minimisation oracle."""

from __future__ import annotations

import torch

from pliant.regions import Ball, TopK
from pliant.testing.case import Case, Point, minus, scaled
from pliant.testing.syncs import HostReads
from pliant.testing.violation import require

SCALES = (1e-20, 1e-6, 2.0**-40, 2.0**40, 1e6, 1e20)


def lmo_is_feasible(case: Case) -> None:
    """value(lmo(g)) <= radius for every g, and every entry is finite."""
    for g in case.directions(case.draws("feasible")):
        _require_feasible(case, case.lmo(g), "lmo(g) is feasible")


def lmo_attains_dual(case: Case) -> None:
    """<lmo(g), g> = -radius * dual(g)."""
    for g in case.directions(case.draws("attains")):
        v = case.lmo(g)
        error = case.dot(v, g) + case.region.radius * case.dual(g)
        allowed = case.slack * case.length(v) * case.length(g)
        require(bool((error.abs() <= allowed).all()), "<lmo(g), g> = -radius dual(g)", case, error, allowed)


def lmo_is_optimal(case: Case) -> None:
    """<lmo(g), g> <= <x, g> for every feasible x: random, boundary, projected points and other vertices."""
    generator = case.draws("optimal")
    points = list(case.feasible(generator))
    for g in case.directions(generator):
        v = case.lmo(g)
        for x in points:
            excess = case.dot(v, g) - case.dot(x, g)
            allowed = case.slack * case.length(g) * (case.length(x) + case.length(v))
            require(bool((excess <= allowed).all()), "no feasible x beats lmo(g)", case, excess, allowed)


def lmo_ignores_scale(case: Case) -> None:
    """lmo(c g) minimises <., g> for every c > 0, from 1e-20 to 1e20, and lmo(2^m g) = lmo(g)."""
    for g in case.directions(case.draws("scale")):
        v = case.lmo(g)
        best, allowed = case.dot(v, g), 2.0 * case.slack * case.length(v) * case.length(g)
        for c in filter(lambda c: _representable(c, case.dtype), SCALES):
            other = case.lmo(scaled(g, c))
            _require_feasible(case, other, f"lmo({c:g} g) is feasible")
            excess = case.dot(other, g) - best
            require(bool((excess.abs() <= allowed).all()), f"lmo({c:g} g) minimises <., g>", case, excess, allowed)


def lmo_ignores_powers_of_two(case: Case) -> None:
    """lmo(2^m g) = lmo(g): such a factor rounds nothing, so that not even ties may be broken in another way."""
    if case.dtype == torch.float16:  # its small numbers are subnormal, where such a factor does round
        return
    for g in case.directions(case.draws("powers")):
        v = case.lmo(g)
        for c in (2.0**-6, 2.0**6):
            distance = case.length(minus(case.lmo(scaled(g, c)), v))
            allowed = case.slack * case.length(v)
            require(bool((distance <= allowed).all()), f"lmo({c:g} g) = lmo(g)", case, distance, allowed)


def lmo_of_zero_is_feasible(case: Case) -> None:
    """lmo(0) is finite and feasible."""
    _require_feasible(case, case.lmo(case.constant(0.0)), "lmo(0) is feasible")
    _require_feasible(case, case.lmo(case.constant(-0.0)), "lmo(-0) is feasible")


def lmo_is_sparse(case: Case) -> None:
    """For `Ball(TopK(k, .), view)`: lmo(g) has at most k atoms, ties included. Other regions make no such promise."""
    region = case.region
    if not (isinstance(region, Ball) and isinstance(region.gauge, TopK)):
        return
    k = int(region.gauge.at(region.view.count(*case.shapes)).k)
    for g in case.directions(case.draws("sparse")):
        parts = zip(case.lmo(g), region.view.scales, strict=True)
        magnitudes = region.view.magnitudes(*[part.double() * scale for part, scale in parts])
        # An atom is what stands out of rounding: entries are stored with half an eps of the dtype.
        atoms = (magnitudes > case.slack * region.radius).sum(-1)
        require(bool((atoms <= k).all()), "lmo(g) has at most k atoms", case, atoms, k)


def lmo_never_reads_host(case: Case) -> None:
    """No operator inside lmo(g) makes the host wait for a value on the device: bool(), float(), nonzero, a mask index.

    Exact factorisations of torch (`HostReads.factorisations`) read their own error flag. They are allowed, but only
    a number of them that does not grow with the tensors: at most two for each tensor of a point.
    """
    g = case.normal(case.draws("host"))
    with HostReads() as seen:
        case.lmo(g)
    require(not seen.reads, "lmo(g) never reads a value on the host", case, seen.reads, [])
    allowed = 2 * len(case.shapes)
    require(seen.factorisations <= allowed, "lmo(g) factorises rarely", case, seen.factorisations, allowed)


def _require_feasible(case: Case, v: Point, law: str) -> None:
    finite = all(bool(part.isfinite().all()) for part in v)
    require(finite, f"{law} (finite)", case, "entries that are not finite", "finite entries")
    found, allowed = case.value(v), case.region.radius * (1.0 + case.slack)
    require(bool((found <= allowed).all()), law, case, found, allowed)


def _representable(c: float, dtype: torch.dtype) -> bool:
    """Tell whether c times a standard normal stays well inside the normal range, where scaling rounds by eps only."""
    limits = torch.finfo(dtype)
    return limits.tiny * 1e9 < c < limits.max * 1e-9
