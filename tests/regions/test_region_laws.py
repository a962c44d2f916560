import math

import pytest
import torch

from pliant.regions import (
    Axes,
    Ball,
    Coupled,
    Entries,
    Filters,
    Joint,
    Lp,
    Penalty,
    Scaled,
    Singular,
    TopK,
    lp_ball,
)
from pliant.testing import REGION_LAWS, check_penalty, check_region
from pliant.testing.case import of
from pliant.testing.laws import form, penalty, projection

GAUGES = [
    TopK(1),
    TopK(3),
    TopK(0.5),
    TopK(1.0),
    TopK(3, math.inf),
    TopK(0.5, math.inf),
    Lp(1.0),
    Lp(2.0),
    Lp(math.inf),
]
POWERS = [Lp(1.05), Lp(1.5), Lp(3.0), Lp(7.0)]  # projections by nested bisection: slow
LINEAR, IMAGE = (4, 6), (4, 3, 2, 2)
VIEWS = [
    (Entries(), LINEAR),
    (Filters(), IMAGE),
    (Singular(), LINEAR),
    (Singular(Axes(spatial=True)), IMAGE),
    (Coupled((Filters(), Filters(), Filters())), (IMAGE, (4,), (4,))),
    (Joint((Filters(), Singular())), ((3, 2), (2, 4))),
]
SHAPES = {
    "linear": (Axes(), (3, 5)),
    "one row": (Axes(), (1, 6)),
    "one column": (Axes(), (6, 1)),
    "vector": (Axes(), (5,)),
    "scalar": (Axes(), ()),
    "one entry": (Axes(), (1,)),
    "conv1d": (Axes(), (4, 3, 2)),
    "conv2d": (Axes(), IMAGE),
    "conv3d": (Axes(), (3, 2, 2, 1, 2)),
    "grouped": (Axes(groups=2), (4, 2, 3)),
    "depthwise": (Axes(groups=4), (4, 1, 2, 2)),
    "transposed": (Axes(out=1), (3, 4, 2)),
    "grouped transposed": (Axes(out=1, groups=2), (4, 3, 2, 2)),
    "in-projection": (Axes(groups=3), (9, 3)),
    "in-projection bias": (Axes(groups=3), (9,)),
}
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
QUICK = [law for law in REGION_LAWS if not law.__name__.startswith("project")]
ORACLE = [law for law in QUICK if law.__module__.endswith("oracle")]
PROJECTION = [law for law in REGION_LAWS if law.__name__.startswith("project")]


def name(value):
    return str(value).removeprefix("torch.")[:40] if not isinstance(value, str) else value


def views_of(axes):
    return [Entries(), Filters(axes), Singular(axes)]


def run(laws, *args, **options):
    case = of(*args, **options)
    for law in laws:
        law(case)


@pytest.mark.parametrize("dtype", DTYPES, ids=name)
@pytest.mark.parametrize("gauge", GAUGES + POWERS, ids=name)
def test_every_gauge_and_view_obeys_the_laws_in_every_dtype(gauge, dtype):
    laws = QUICK if dtype == torch.float64 and gauge in GAUGES else ORACLE  # float32: every law on every layer below
    for view, shapes in VIEWS:
        run(laws, Ball(gauge, view, 1.7), shapes, dtype=dtype, trials=1)


@pytest.mark.parametrize("layer", SHAPES)
def test_every_layer_shape_obeys_the_laws(layer):
    axes, shape = SHAPES[layer]
    for view, gauge in zip(views_of(axes), (TopK(2), TopK(2), TopK(0.3, math.inf)), strict=True):
        run(QUICK, Ball(gauge, view, 0.6), shape, trials=1, seed=3)


@pytest.mark.parametrize("view", range(len(VIEWS)))
@pytest.mark.parametrize("gauge", GAUGES, ids=name)
def test_projections_obey_the_laws(gauge, view):
    where, shapes = VIEWS[view]
    run(PROJECTION, Ball(gauge, where, 1.7), shapes, dtype=torch.float64, trials=1)


@pytest.mark.parametrize("view", range(len(VIEWS)))
@pytest.mark.parametrize("gauge", [TopK(1), Lp(2.0), Lp(math.inf)], ids=name)
def test_penalties_obey_the_laws(gauge, view):
    where, shapes = VIEWS[view]
    for dtype in (torch.float64, torch.float32):
        check_penalty(Penalty(gauge, where, 0.7), shapes, dtype=dtype, trials=1)


def test_the_k_support_penalty_obeys_the_laws():
    for view, shapes in (VIEWS[0], VIEWS[2]):
        check_penalty(Penalty(TopK(3), view, 0.7), shapes, dtype=torch.float64, trials=1)


@pytest.mark.parametrize("gauge", [TopK(3, math.inf), Lp(3.0)], ids=name)
def test_the_prox_without_a_closed_form_is_optimal(gauge):
    case = of(Ball(gauge, Entries(), 1.0), (5,), trials=1)
    penalty.prox_is_optimal(case, Penalty(gauge, Entries(), 0.7))


def test_lp_projections_are_feasible_and_nearest():
    case = of(lp_ball(1.5, 1.7), (5,), dtype=torch.float64, trials=1)
    projection.project_is_nearest(case)


@pytest.mark.parametrize("batch", [(1,), (2,), (1, 2)])
@pytest.mark.parametrize("gauge", [TopK(2), TopK(2, math.inf), Lp(2.0), Lp(math.inf)], ids=name)
def test_a_batch_of_points_is_a_loop_over_them(gauge, batch):
    dims = len(batch)
    axes = Axes(groups=2)
    pairs = [(Entries(dims), Entries()), (Filters(axes, dims), Filters(axes)), (Singular(axes, dims), Singular(axes))]
    for many, one in pairs:
        case = of(Ball(gauge, many, 1.3), (4, 3, 2), batch=batch)
        form.batch_is_a_loop(case, Ball(gauge, one, 1.3))
    many = Joint(tuple(pair[0] for pair in pairs[1:]))
    case = of(Ball(gauge, many, 1.3), ((4, 3), (2, 2)), batch=batch)
    form.batch_is_a_loop(case, Ball(gauge, Joint(tuple(pair[1] for pair in pairs[1:])), 1.3))


def test_batched_regions_obey_the_laws():
    run(QUICK, Ball(TopK(2), Singular(Axes(), 1), 1.3), (3, 4), batch=(2,), trials=1)


@pytest.mark.parametrize("gauge", [TopK(2), TopK(2, math.inf), Lp(math.inf)], ids=name)
def test_scaled_views_obey_the_laws_in_their_own_metric(gauge):
    view = Scaled(Joint((Entries(), Filters(), Singular())), (0.5, 2.0, 3.0))
    run([*QUICK, projection.project_is_nearest], Ball(gauge, view, 1.7), ((3,), (4, 2), (3, 4)), trials=1)
    one = Scaled(Filters(), (0.1,))
    run(PROJECTION, Ball(gauge, one, 1.7), (4, 3), trials=1)


def test_a_nested_joint_takes_its_tensors_in_order():
    view = Joint((Coupled((Filters(), Filters())), Scaled(Singular(), (2.0,)), Entries()))
    run(ORACLE, Ball(TopK(2), view, 1.0), ((3, 2), (3,), (2, 3), ()), trials=1)


def test_projection_of_large_and_tiny_radii():
    for radius in (1e-4, 1e4):
        for gauge in (TopK(1), TopK(2), TopK(2, math.inf)):
            case = of(Ball(gauge, Entries(), radius), (7,), dtype=torch.float64)
            projection.project_is_nearest(case)
            projection.project_is_feasible(case)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES, ids=name)
@pytest.mark.parametrize("layer", SHAPES)
@pytest.mark.parametrize("gauge", GAUGES + POWERS, ids=name)
def test_deep_every_gauge_view_layer_and_dtype(gauge, layer, dtype):
    axes, shape = SHAPES[layer]
    for view in views_of(axes):
        check_region(Ball(gauge, view, 2.3), shape, dtype=dtype, trials=2, seed=11)


@pytest.mark.slow
@pytest.mark.parametrize("gauge", GAUGES + POWERS + [TopK(2, math.inf)], ids=name)
def test_deep_penalties(gauge):
    for view, shapes in VIEWS:
        for dtype in (torch.float64, torch.float32, torch.bfloat16):
            check_penalty(Penalty(gauge, view, 0.4), shapes, dtype=dtype, seed=5)
