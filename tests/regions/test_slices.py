"""Atoms that own several slices of a tensor, in any order: the laws, a slow twin, and what is written down of them."""

import json
import math

import pytest
import torch

from pliant.regions import Axes, Ball, Coupled, Filters, Lp, Penalty, Product, Scaled, Slices, TopK
from pliant.regions.slices import channels_along
from pliant.spec import from_spec, to_spec
from pliant.testing import REGION_LAWS, check_penalty
from pliant.testing.case import of
from pliant.testing.laws import form

HEADS = Slices.of(0, [0, 0, 1, 1, 0, 0, 1, 1], 2)
COLUMNS = Slices.of(1, [2, 0, 1, 2, 0, 1], 3)
UNEVEN = Slices.of(0, [1, 0, 2, 2, 2, 1], 3)
VIEWS = {
    "heads": (HEADS, (8, 3)),
    "columns": (COLUMNS, (2, 6)),
    "uneven": (UNEVEN, (6, 2, 2)),
    "vector": (UNEVEN, (6,)),
    "coupled": (Coupled((UNEVEN, Filters(), Slices.of(1, [2, 1, 1], 3))), ((6, 2), (3,), (2, 3))),
    "scaled": (Scaled(Coupled((COLUMNS, UNEVEN)), (0.5, 3.0)), ((2, 6), (6,))),
}
GAUGES = [TopK(1), TopK(2), TopK(0.5), TopK(2, math.inf), Lp(2.0), Lp(math.inf)]
QUICK = [law for law in REGION_LAWS if not law.__name__.startswith("project")]
ORACLE = [law for law in QUICK if law.__module__.endswith("oracle")]


def name(value):
    return str(value).removeprefix("torch.")


def run(laws, view, gauge, dtype):
    where, shapes = VIEWS[view]
    case = of(Ball(gauge, where, 1.7), shapes, dtype=dtype, trials=1)
    for law in laws:
        law(case)


@pytest.mark.parametrize("view", VIEWS)
def test_the_laws_hold(view):
    run(REGION_LAWS, view, TopK(2), torch.float64)


@pytest.mark.parametrize("view", VIEWS)
def test_the_laws_of_the_oracle_hold_in_every_dtype(view):
    for gauge in GAUGES:
        run(ORACLE, view, gauge, torch.float32)
    for dtype in (torch.bfloat16, torch.float16):
        run(ORACLE, view, TopK(2), dtype)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=name)
@pytest.mark.parametrize("gauge", GAUGES, ids=name)
@pytest.mark.parametrize("view", VIEWS)
def test_deep_every_gauge_and_dtype(view, gauge, dtype):
    run(REGION_LAWS if dtype == torch.float64 else QUICK, view, gauge, dtype)


@pytest.mark.parametrize("gauge", [TopK(1), Lp(math.inf)], ids=name)
@pytest.mark.parametrize("view", VIEWS)
def test_penalties_obey_the_laws(view, gauge):
    where, shapes = VIEWS[view]
    check_penalty(Penalty(gauge, where, 0.7), shapes, dtype=torch.float64, trials=1)


@pytest.mark.parametrize("batch", [(2,), (1, 3)])
@pytest.mark.parametrize("view", VIEWS)
def test_a_batch_of_points_is_a_loop_over_them(view, batch):
    one, shapes = VIEWS[view]
    many = one
    for _ in batch:
        many = many.stacked()
    form.batch_is_a_loop(of(Ball(TopK(2), many, 1.3), shapes, batch=batch), Ball(TopK(2), one, 1.3))


@pytest.mark.parametrize("view", [HEADS, COLUMNS, UNEVEN], ids=str)
def test_magnitudes_are_those_of_the_gathered_slices(view):
    shape = [3, 3, 3]
    shape[view.dim] = len(view.owners)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for atom in range(view.atoms):
        mine = [x.select(view.dim, place) for place, owner in enumerate(view.owners) if owner == atom]
        torch.testing.assert_close(view.magnitudes(x)[atom], torch.stack(mine).norm())


@pytest.mark.parametrize("dim", [0, 1])
def test_one_slice_for_each_atom_is_filters(dim):
    shape = (5, 5, 2)
    x, g = (torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    own, filters = Ball(TopK(2), Slices.of(dim, range(5), 5), 0.7), Ball(TopK(2), Filters(Axes(out=dim)), 0.7)
    assert channels_along(dim, range(5), 5) == filters.view
    assert channels_along(dim, [1, 0, 2], 3) == Slices.of(dim, [1, 0, 2], 3)
    for one, other in zip((own.lmo(g), own.project(x)), (filters.lmo(g), filters.project(x)), strict=True):
        torch.testing.assert_close(one, other)
    torch.testing.assert_close(own.value(x), filters.value(x))


def test_an_atom_without_slices_counts_and_is_zero():
    view = Slices.of(0, [0, 0, 2], 3)
    assert view.count((3, 2)) == 3
    assert view.magnitudes(torch.ones(3, 2)).tolist() == pytest.approx([2.0, 0.0, math.sqrt(2.0)])


PATTERNS = [
    [0],
    [3, 3, 3],
    [0, 1, 2, 3],
    [3, 2, 1, 0],
    [0, 0, 0, 1, 1, 2, 2],
    [0, 2, 1, 3],
    [0, 0, 1, 1, 2, 2] * 3,
    [1, 1, 1, 0, 2, 3, 0],
]


@pytest.mark.parametrize("owners", PATTERNS, ids=str)
def test_runs_say_what_they_were_made_of_and_survive_json(owners):
    view = Slices.of(1, owners, 4, batch=1)
    assert view.owners == owners
    again = from_spec(json.loads(json.dumps(to_spec(view))))
    assert again == view
    assert hash(again) == hash(view)


def test_regular_patterns_are_short_whatever_their_size():
    heads = [head for _ in range(3) for head in range(12) for _ in range(64)]
    assert Slices.of(0, heads, 12).runs == ((0, 1, 12, 64),) * 3
    shuffled = [2 * i + j for j in range(2) for i in range(512)]
    assert Slices.of(0, shuffled, 1024).runs == ((0, 2, 512, 1), (1, 2, 512, 1))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((-1, 2, ((0, 1, 2, 1),)), "dim and batch must be at least 0, found -1"),
        ((0, 2, ()), "runs must be .first, step, count, each."),
        ((0, 2, ((0, 1, 2, 0),)), "the last two at least 1"),
        ((0, 2, ((0, 1, 3, 1),)), "atoms from 0 to 1, found 0 to 2"),
        ((0, 2, ((1, -1, 3, 1),)), "atoms from 0 to 1, found -1 to 1"),
    ],
)
def test_impossible_patterns_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Slices(*arguments)


@pytest.mark.parametrize("shape", [(), (7, 2), (8, 0)])
def test_other_shapes_are_refused(shape):
    with pytest.raises(ValueError, match=r"needs 8 slices along dimension 0, found shape \("):
        HEADS.count(shape)


def test_members_with_other_atoms_are_refused():
    with pytest.raises(ValueError, match=r"equally many channels, found \[2, 3\]"):
        Coupled((HEADS, UNEVEN)).count((8, 2), (6,))
    with pytest.raises(ValueError, match="must be Filters or Slices views"):
        Coupled((HEADS, Scaled(HEADS, (2.0,))))


@pytest.mark.parametrize("k", [0.1, 0.8])
def test_vertices_of_large_points_are_those_of_small_ones_and_copy_no_tensor(k):
    draws = torch.Generator().manual_seed(0)
    point = tuple(torch.randn(shape, generator=draws) for shape in ((120, 400), (40,), (30, 40)))
    owners = [atom for _ in range(3) for atom in range(40)]
    view = Scaled(Coupled((Slices.of(0, owners, 40), Filters(), Filters(Axes(out=1)))), (0.3, 1.0, 2.0))
    ball = Ball(TopK(k), view, 2.0)
    for fast, exact in zip(ball.lmo(point, {}), ball.lmo(point), strict=True):
        torch.testing.assert_close(fast, exact)
    found = Coupled((Slices.of(0, owners, 40),)).maximiser(TopK(4), point[0], memory={})
    assert isinstance(found[0], Product)
    assert found[0].values is point[0]


def test_indices_made_in_inference_mode_serve_training():
    view = Slices.of(0, [4, 0, 4, 1, 2, 3, 3], 5)
    with torch.inference_mode():
        view.magnitudes(torch.ones(7, 2))
    x = torch.ones(7, 2, requires_grad=True)
    view.magnitudes(x).sum().backward()
    assert torch.isfinite(x.grad).all()
