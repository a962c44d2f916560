"""The law suite of regions: one call checks a region of your own.

>>> from pliant.regions import k_support_ball
>>> check_region(k_support_ball(3, radius=2.0), (5, 4))
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from pliant.optim import Regulariser
from pliant.regions import Ball, Penalty, Region, TopK
from pliant.testing.case import Case, Shape, of
from pliant.testing.laws import form, norms, oracle, penalty, projection, warm

Law = Callable[[Case], None]
PenaltyLaw = Callable[[Case, Penalty], None]
RegulariserLaw = Callable[[Case, Regulariser], None]

REGION_LAWS: tuple[Law, ...] = (
    oracle.lmo_is_feasible,
    oracle.lmo_attains_dual,
    oracle.lmo_is_optimal,
    oracle.lmo_ignores_scale,
    oracle.lmo_ignores_powers_of_two,
    oracle.lmo_of_zero_is_feasible,
    oracle.lmo_is_sparse,
    oracle.lmo_never_reads_host,
    warm.warm_lmo_is_feasible,
    warm.warm_lmo_is_nearly_optimal,
    warm.warm_lmo_repeats_itself,
    warm.warm_lmo_never_reads_host,
    norms.value_is_a_norm,
    norms.dual_is_a_norm,
    norms.hoelder,
    norms.vertices_are_on_the_boundary,
    norms.contains_agrees_with_value,
    norms.scale_into_is_radial,
    norms.gap_is_its_definition,
    norms.gap_is_nonnegative,
    norms.diameter_bounds_distances,
    norms.diameter_is_attained,
    projection.project_is_feasible,
    projection.project_keeps_feasible_points,
    projection.project_is_idempotent,
    projection.project_is_nearest,
    form.results_match_arguments,
    form.arguments_are_untouched,
    form.memory_format_is_ignored,
)

REGULARISER_LAWS: tuple[RegulariserLaw, ...] = (
    penalty.values_are_finite,
    penalty.prox_minimises,
    penalty.prox_is_firmly_nonexpansive,
    penalty.prox_of_step_zero_is_identity,
    penalty.arguments_of_prox_are_untouched,
)

PENALTY_LAWS: tuple[PenaltyLaw, ...] = (
    *REGULARISER_LAWS,
    penalty.prox_is_optimal,
    penalty.prox_satisfies_moreau,
    penalty.prox_of_large_step_is_zero,
    penalty.penalty_has_finite_gradients,
)


def check_region(
    region: Region,
    shapes: Shape | Sequence[Shape],
    *,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
    batch: tuple[int, ...] = (),
    single: Region | None = None,
    device: str = "cpu",
    trials: int = 3,
) -> None:
    """Check every law of `REGION_LAWS` on points drawn from a seed.

    Args:
        region: the region to check.
        shapes: the shape of a point, such as (out, in); one shape per tensor if the region's arity is above 1.
        dtype: of the points: float64, float32, bfloat16 or float16.
        seed: same seed, same points; the global random state is not touched.
        batch: sizes of the batch dimensions in front of every tensor, if the region has any.
        single: the same region without batch dimensions, to compare a batch with a loop.
        device: where the points live.
        trials: random points of each kind and law.

    Raises:
        LawViolation: with the law, the region, the number found and the number allowed.
    """
    case = of(region, shapes, dtype=dtype, seed=seed, batch=batch, device=device, trials=trials)
    for law in REGION_LAWS:
        law(case)
    if single is not None:
        form.batch_is_a_loop(case, single)


def check_penalty(
    subject: Regulariser,
    shapes: Shape | Sequence[Shape],
    *,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
    batch: tuple[int, ...] = (),
    device: str = "cpu",
    trials: int = 2,
) -> None:
    """Check every law of a regulariser and its proximal map; arguments as in `check_region`.

    Those of `REGULARISER_LAWS` need a view, `value` and `prox`, and say that `value` is convex; a `Penalty`, whose
    gauge has a dual norm, obeys all of `PENALTY_LAWS`.

    Raises:
        TypeError: the subject lacks view, value or prox.
        LawViolation: with the law, the regulariser, the number found and the number allowed.
    """
    if not isinstance(subject, Regulariser):
        raise TypeError(f"subject must be a Regulariser, with view, value and prox, found {subject!r}")
    gauge = subject.gauge if isinstance(subject, Penalty) else TopK(1)
    case = of(Ball(gauge, subject.view, 1.0), shapes, dtype=dtype, seed=seed, batch=batch, device=device, trials=trials)
    if not isinstance(subject, Penalty):
        for general in REGULARISER_LAWS:
            general(case, subject)
        return
    for law in PENALTY_LAWS:
        law(case, subject)
