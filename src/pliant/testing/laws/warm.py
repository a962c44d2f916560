"""Laws of oracles that keep state: feasible always, nearly optimal once warm, and never waiting for the device."""

from __future__ import annotations

import torch

from pliant.regions.region import tensors
from pliant.testing.case import Case, Point
from pliant.testing.syncs import HostReads
from pliant.testing.violation import require

STEPS, WARM = 8, 4
MEAN, LEAST = 0.95, 0.85  # on noise, whose singular values are as close together as can be; gradients do far better


def warm_lmo_is_feasible(case: Case) -> None:
    """value(lmo(g, state)) <= radius for every g, also right after another, unrelated one, and for zero."""
    state: dict[str, object] = {}
    for g in [*case.directions(case.draws("warm")), case.constant(0.0), case.normal(case.draws("warm again"))]:
        v = _lmo(case, g, state)
        finite = all(bool(part.isfinite().all()) for part in v)
        require(finite, "lmo(g, state) is finite", case, "entries that are not finite", "finite entries")
        found, allowed = case.value(v), case.region.radius * (1.0 + case.slack)
        require(bool((found <= allowed).all()), "lmo(g, state) is feasible", case, found, allowed)


def warm_lmo_is_nearly_optimal(case: Case) -> None:
    """After a few calls for a drifting g, -<lmo(g, state), g> is near radius * dual(g), on average nearer still."""
    generator = case.draws("nearly")
    state: dict[str, object] = {}
    g, shares = case.normal(generator), []
    for step in range(STEPS):
        noise = case.normal(generator)
        g = tuple((0.9 * a.double() + 0.3 * b.double()).to(case.dtype) for a, b in zip(g, noise, strict=True))
        share = -case.dot(_lmo(case, g, state), g) / (case.region.radius * case.dual(g))
        if step >= WARM:
            shares.append(share)
    least, mean = torch.stack(shares).amin(), torch.stack(shares).mean()
    require(bool(least >= LEAST - case.slack), "lmo(g, state) is nearly optimal", case, least, LEAST)
    require(bool(mean >= MEAN - case.slack), "lmo(g, state) is nearly optimal on average", case, mean, MEAN)


def warm_lmo_repeats_itself(case: Case) -> None:
    """Equal calls give equal vertices, to the bit, and the global random state is untouched."""
    before = torch.get_rng_state()
    states: tuple[dict[str, object], dict[str, object]] = ({}, {})
    for g in case.directions(case.draws("repeats")):
        first, second = (_lmo(case, g, state) for state in states)
        same = all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
        require(same, "equal calls give equal vertices", case, "different ones", "equal ones")
    same = torch.equal(before, torch.get_rng_state())
    require(same, "the global random state is untouched", case, "another state", "the same")


def _lmo(case: Case, g: Point, state: dict[str, object]) -> Point:
    return tensors(case.region.lmo(case.pack(g), state))


def warm_lmo_never_reads_host(case: Case) -> None:
    """No operator inside lmo(g, state) makes the host wait, from the second call on and in the first.

    Exact factorisations, where an oracle has nothing faster, are counted as for lmo(g).
    """
    state: dict[str, object] = {}
    for g in (case.normal(case.draws("host")), case.normal(case.draws("host again"))):
        with HostReads() as seen:
            _lmo(case, g, state)
        require(not seen.reads, "lmo(g, state) never reads a value on the host", case, seen.reads, [])
        allowed = 2 * len(case.shapes)
        require(seen.factorisations <= allowed, "lmo(g, state) factorises rarely", case, seen.factorisations, allowed)
