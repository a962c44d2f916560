"""Laws of regularisers and their proximal maps, in the metric of the view's `scales`; some of `Penalty` alone."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import torch

from pliant.optim import Regulariser
from pliant.regions import Ball, Penalty
from pliant.regions.region import tensors
from pliant.testing.case import Case, Point, like, minus
from pliant.testing.violation import require

STEPS = (0.01, 0.3, 1.0, 10.0)
_REACHES = (0.001, 0.3)


def prox_minimises(case: Case, regulariser: Regulariser) -> None:
    """For z = prox(x, step) and any y: step value(y) >= step value(z) + <x - z, y - z>.

    So (x - z) / step is a subgradient of a convex value at z, which no other z has. The y tried are z moved at random,
    entry by entry in proportion to z, away from 0, towards it, and towards x.
    """
    generator, metric = case.draws("minimal"), _metric(regulariser)
    for x, step in _points(case, "minimal"):
        z = _prox(case, regulariser, x, step)
        for y in _around(case, x, z, generator):
            here, there = (step * regulariser.value(case.pack(point)).double() for point in (z, y))
            found = case.dot(minus(x, z), minus(y, z), metric) + here - there
            moved, left, start, end = (case.length(point, metric) for point in (minus(y, z), minus(x, z), x, z))
            allowed = case.slack * (start * moved + left * end + here.abs() + there.abs())
            about = _about(case, regulariser)
            require(bool((found <= allowed).all()), "prox(x, step) minimises", about, found, allowed)


def values_are_finite(case: Case, regulariser: Regulariser) -> None:
    """Value, its gradient and prox are finite, at zero too."""
    for x in (*case.directions(case.draws("finite")), case.constant(0.0)):
        leaves = tuple(part.clone().requires_grad_() for part in x)
        value = regulariser.value(case.pack(leaves))
        grads = torch.autograd.grad(value.sum(), leaves)
        for what, parts in (("value", (value,)), ("gradient", grads), ("prox", _prox(case, regulariser, x, 1.0))):
            finite = all(bool(part.isfinite().all()) for part in parts)
            told = _about(case, regulariser)
            require(finite, f"the {what} is finite", told, "entries that are not finite", "finite entries")


def prox_is_optimal(case: Case, penalty: Penalty) -> None:
    """For z = prox(x, step): dual(x - z) <= step weight and <x - z, z> = step value(z).

    Together these say that (x - z) / step is a subgradient of the penalty at z. In the metric of scales s the
    residual is s^2 (x - z).
    """
    for x, step in _points(case, "prox"):
        z = _prox(case, penalty, x, step)
        residual = tuple((w * part) for w, part in zip(_metric(penalty), minus(x, z), strict=True))
        error = case.slack * _largest(case, penalty, x)
        found, bound = _dual(case, penalty, residual), step * penalty.weight
        # x - z is known up to slack |x|; a dual norm of it up to that times its dual norm over its length.
        allowed = bound * (1.0 + case.slack) + error
        require(bool((found <= allowed).all()), "dual(x - z) <= step weight", case, found, allowed)
        difference = case.dot(residual, z) - step * penalty.value(case.pack(z)).double()
        allowed = error * (case.length(z) + case.value(z)) + case.slack * step * penalty.value(case.pack(z)).double()
        require(bool((difference.abs() <= allowed).all()), "<x - z, z> = step value(z)", case, difference, allowed)


def prox_satisfies_moreau(case: Case, penalty: Penalty) -> None:
    """prox(x, step) + projection of x onto the dual ball of radius step weight = x.

    The projection p of x onto the dual ball C is characterised without computing it: p is in C, and
    <x - p, y - p> <= 0 for every y in C; the y tried are subgradients of the norm at random points.
    """
    generator = case.draws("moreau y")
    for x, step in _points(case, "moreau"):
        z = _prox(case, penalty, x, step)
        p = minus(x, z)
        for y in (case.normal(generator), case.normal(generator)):
            bound = step * penalty.weight
            scale = bound / _dual(case, penalty, tuple(part.double() for part in y))
            inside = tuple(part.double() * like(scale, part) for part in y)
            weighted = tuple(part / w for w, part in zip(_metric(penalty), inside, strict=True))
            found = case.dot(z, minus(weighted, p), _metric(penalty))
            ends = case.length(x) + case.length(inside)
            allowed = case.slack * _largest(case, penalty, x) * ends
            require(bool((found <= allowed).all()), "Moreau: x = prox + projection", case, found, allowed)


def prox_is_firmly_nonexpansive(case: Case, regulariser: Regulariser) -> None:
    """|z - w|^2 <= <z - w, x - y> for z = prox(x), w = prox(y)."""
    points = list(_points(case, "firm"))
    metric = _metric(regulariser)
    for (x, step), (y, _) in itertools.pairwise(points):
        z, w = _prox(case, regulariser, x, step), _prox(case, regulariser, y, step)
        found = case.dot(minus(z, w), minus(z, w), metric) - case.dot(minus(z, w), minus(x, y), metric)
        allowed = case.slack * (case.length(x, metric) + case.length(y, metric)) ** 2
        require(
            bool((found <= allowed).all()), "prox is firmly nonexpansive", _about(case, regulariser), found, allowed
        )


def prox_of_step_zero_is_identity(case: Case, regulariser: Regulariser) -> None:
    """prox(x, 0) = x."""
    for x in case.directions(case.draws("identity")):
        distance = case.length(minus(_prox(case, regulariser, x, 0.0), x))
        allowed = case.slack * case.length(x)
        require(bool((distance <= allowed).all()), "prox(x, 0) = x", _about(case, regulariser), distance, allowed)


def prox_of_large_step_is_zero(case: Case, penalty: Penalty) -> None:
    """prox(x, step) = 0 where step weight >= dual(x), in particular prox(0, step) = 0."""
    if penalty.weight == 0:
        return
    for x in (*case.directions(case.draws("large")), case.constant(0.0)):
        metric = _metric(penalty)
        dual = _dual(case, penalty, tuple(w * part.double() for w, part in zip(metric, x, strict=True)))
        z = _prox(case, penalty, x, float(dual.max()) / penalty.weight * (1.0 + case.slack) + 1e-3)
        require(bool((case.length(z) == 0).all()), "prox(x, dual(x) / weight) = 0", case, case.length(z), 0)


def penalty_has_finite_gradients(case: Case, penalty: Penalty) -> None:
    """The gradient of value is finite, at zero too, has dual norm <= weight, and <grad, x> = value(x)."""
    for x in (*case.directions(case.draws("gradient")), case.constant(0.0)):
        leaves = tuple(part.clone().requires_grad_() for part in x)
        value = penalty.value(case.pack(leaves))
        grads = torch.autograd.grad(value.sum(), leaves)
        finite = all(bool(part.isfinite().all()) for part in grads)
        require(finite, "gradients are finite", case, "entries that are not finite", "finite entries")
        found, allowed = case.dual(grads), penalty.weight * (1.0 + case.slack)
        require(bool((found <= allowed).all()), "dual(gradient) <= weight", case, found, allowed)
        error = case.dot(grads, x) - value.detach().double()
        bound = case.slack * case.length(grads) * case.length(x)
        require(bool((error.abs() <= bound).all()), "<gradient, x> = value(x)", case, error, bound)


def arguments_of_prox_are_untouched(case: Case, regulariser: Regulariser) -> None:
    """Prox keeps shapes and dtype, and does not write to its argument."""
    for x, step in itertools.islice(_points(case, "untouched"), 1):
        copies = [part.clone() for part in x]
        z = _prox(case, regulariser, x, step)
        same = all(torch.equal(a, b) for a, b in zip(x, copies, strict=True))
        require(same, "the argument is untouched", _about(case, regulariser), "changed entries", "none")
        found = [(part.shape, part.dtype) for part in z]
        expected = [(part.shape, part.dtype) for part in x]
        require(found == expected, "prox keeps shape and dtype", _about(case, regulariser), found, expected)


def _points(case: Case, law: str) -> Iterator[tuple[Point, float]]:
    yield from zip(case.directions(case.draws(law)), itertools.cycle(STEPS), strict=False)


def _around(case: Case, x: Point, z: Point, generator: torch.Generator) -> Iterator[Point]:
    for reach in _REACHES:
        random, factors = case.normal(generator), case.normal(generator)
        moves = (random, [f * part for f, part in zip(factors, z, strict=True)], z, [-part for part in z], minus(x, z))
        for move in moves:
            yield tuple((part + reach * by).to(part.dtype) for part, by in zip(z, move, strict=True))


def _about(case: Case, regulariser: Regulariser) -> str:
    return f"{regulariser} on points of shapes {case.shapes}, {case.dtype}, seed {case.seed}"


def _prox(case: Case, regulariser: Regulariser, x: Point, step: float) -> Point:
    return tensors(regulariser.prox(case.pack(x), step))


def _dual(case: Case, penalty: Penalty, g: Point) -> torch.Tensor:
    return Ball(penalty.gauge, penalty.view, 1.0).dual(case.pack(g)).double()


def _metric(regulariser: Regulariser) -> tuple[float, ...]:
    return tuple(s * s for s in regulariser.view.scales)


def _largest(case: Case, penalty: Penalty, x: Point) -> torch.Tensor:
    """Return a length that bounds |x| and its dual norm, in the metric and out of it."""
    weighted = tuple(w * part.double() for w, part in zip(_metric(penalty), x, strict=True))
    return case.length(x) + case.length(weighted) + _dual(case, penalty, weighted)
