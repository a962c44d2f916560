"""One test for every defect that another project, or a draft of this one, has had."""

import math

import pytest
import torch
from torch import tensor

from pliant.regions import (
    CATALOGUE,
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
    group_k_support_ball,
    k_sparse_polytope,
    k_support_ball,
    l1_ball,
    l2_ball,
    lp_ball,
    nuclear_ball,
    spectral_ball,
    spectral_k_sparse_polytope,
    spectral_k_support_ball,
)
from pliant.testing import REGION_LAWS
from pliant.testing.case import of

EVERY = [
    make(*args, radius=2.0)
    for title, make in CATALOGUE.items()
    for args in [(1.5,) if title == "lp-ball" else (2,) if "-k-" in f"-{title}" else ()]
]


def title(region):
    return f"{type(region.view).__name__}-{region.gauge}"


def test_the_k_support_norm_at_k_1_is_l1():
    for numbers in ([0.5, 1.0, 2.0], [1.0] * 6, [1.0, -1.5, 2.0, 0.5, -0.67]):
        x = tensor(numbers, dtype=torch.float64)
        for k in (1, 0.01):
            assert k_support_ball(k, 1.0).value(x).item() == pytest.approx(x.abs().sum().item(), rel=1e-14)
            assert k_sparse_polytope(k, 1.0).value(x).item() == pytest.approx(x.abs().sum().item(), rel=1e-14)


def test_the_k_support_norm_at_k_n_is_l2():
    for numbers in ([0.5, 1.0, 2.0], [1.0] * 6, [0.0, 0.0, -3.0]):
        x = tensor(numbers, dtype=torch.float64)
        for k in (len(x), 1.0, len(x) + 5):
            assert k_support_ball(k, 1.0).value(x).item() == pytest.approx(x.norm().item(), rel=1e-14)
            assert k_sparse_polytope(k, 1.0).value(x).item() == pytest.approx(x.abs().max().item(), rel=1e-14)


def test_spectral_norms_at_k_1_and_k_n_are_nuclear_frobenius_and_operator():
    w = torch.randn(4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    values = torch.linalg.svdvals(w)
    for k, support, sparse in ((1, values.sum(), values.sum()), (3, w.norm(), values[0]), (1.0, w.norm(), values[0])):
        torch.testing.assert_close(spectral_k_support_ball(k, 1.0).value(w), support)
        torch.testing.assert_close(spectral_k_sparse_polytope(k, 1.0).value(w), sparse)


def test_k_of_one_is_one_atom_and_k_of_one_point_zero_is_all_of_them():
    g = tensor([3.0, -2.0, 1.0])
    assert (k_support_ball(1, 1.0).lmo(g) != 0).sum() == 1
    assert (k_support_ball(1.0, 1.0).lmo(g) != 0).sum() == 3
    assert TopK(1) != TopK(1.0)
    assert len({k_support_ball(1, 1.0), k_support_ball(1.0, 1.0)}) == 2
    assert TopK(2) == TopK(2)
    assert hash(TopK(2)) == hash(TopK(2))


@pytest.mark.parametrize("k", [1.5, 0, 0.0, -1, -0.1, math.nan, math.inf, True, "3", None])
def test_k_of_one_and_a_half_and_other_nonsense_is_an_error(k):
    with pytest.raises(ValueError, match=r"k must be an int >= 1 .* float in \(0, 1\] .*found"):
        TopK(k)


def test_a_tiny_fraction_keeps_one_atom_and_a_count_above_n_means_n():
    g = tensor([3.0, -2.0, 1.0])
    assert (k_support_ball(1e-9, 1.0).lmo(g) != 0).sum() == 1
    assert (k_support_ball(99, 1.0).lmo(g) != 0).sum() == 3
    joint = Ball(TopK(1e-9), Joint((Entries(), Entries())), 1.0)
    assert sum(int((part != 0).sum()) for part in joint.lmo((g, g))) == 1


@pytest.mark.parametrize(("fraction", "n", "count"), [(0.2, 160, 32), (0.2, 10, 2), (0.1, 10, 1), (0.3, 10, 3)])
def test_fractions_round_tolerantly(fraction, n, count):
    assert TopK(1 - (1 - fraction)).at(n).k == count


@pytest.mark.parametrize("k", [1, 2, 3, 7])
@pytest.mark.parametrize("p", [2.0, math.inf])
def test_ties_never_select_more_than_k_groups(k, p):
    for shape in ((8, 5), (8, 5, 3), (8, 5, 3, 3), (8, 2, 1, 2, 2)):
        ball = Ball(TopK(k, p), Filters(), 1.0)
        v = ball.lmo(torch.ones(shape))
        assert (v.flatten(1).norm(dim=1) > 0).sum() == k
        assert ball.value(v) <= 1 + 1e-6
    assert (Ball(TopK(k, p), Entries(), 1.0).lmo(-torch.ones(8)) > 0).sum() == k
    assert torch.linalg.matrix_rank(Ball(TopK(k, p), Singular(), 1.0).lmo(torch.eye(8))) == k


@pytest.mark.parametrize("region", EVERY, ids=title)
def test_a_point_with_negative_entries_is_not_smaller_than_its_mirror_image(region):
    x = torch.randn(5, 4, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(region.value(-x), region.value(x))
    torch.testing.assert_close(region.project(-x), -region.project(x))
    far = -20.0 * torch.ones(5, 4)
    assert not region.contains(far)
    assert region.contains(region.project(far), tol=1e-5)


@pytest.mark.parametrize("region", EVERY, ids=title)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_the_lmo_of_a_zero_gradient_is_finite_and_feasible(region, dtype):
    for shape in ((4, 3), (1, 1), (4, 2, 3, 3)):
        v = region.lmo(torch.zeros(shape, dtype=dtype))
        assert v.isfinite().all()
        assert region.contains(v)


@pytest.mark.parametrize("region", EVERY, ids=title)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_norms_of_half_precision_and_tied_values_are_finite_and_right(region, dtype):
    generator = torch.Generator().manual_seed(2)
    for _ in range(20):
        x = torch.randn(6, 5, generator=generator).to(dtype)
        tied = x.round(decimals=0) * (60000.0 / 4 if dtype == torch.float16 else 1e30)
        for y in (x, tied):
            value = region.value(y)
            assert value.dtype == torch.float32
            torch.testing.assert_close(value.double(), region.value(y.double()), rtol=1e-4, atol=0.0)


@pytest.mark.parametrize("p", [1.001, 1.25, 1.5, 1.99])
def test_the_diameter_of_lp_below_2_is_twice_the_radius(p):
    assert lp_ball(p, 3.0).diameter((1000,)) == 6.0


@pytest.mark.parametrize("p", [1.001, 1.01, 1.05, 1.25])
@pytest.mark.parametrize("size", [1e-6, 1e-3, 1.0, 1e6])
def test_the_lp_lmo_near_1_with_tiny_gradients_is_finite_nonzero_and_optimal(p, size):
    g = size * torch.randn(100, generator=torch.Generator().manual_seed(3))
    ball = lp_ball(p, 1.0)
    v = ball.lmo(g)
    assert v.isfinite().all()
    assert (v != 0).any()
    peak = g.double().abs().max()  # powers of up to 1001 need it
    exact = (g.double() / peak).norm(p / (p - 1)) * peak
    assert (v.double() @ g.double()).item() == pytest.approx(-exact.item(), rel=1e-4)
    assert ball.contains(v, tol=1e-5)


@pytest.mark.parametrize("make", [spectral_k_sparse_polytope, spectral_k_support_ball])
@pytest.mark.parametrize("shape", [(8, 20), (20, 8), (8, 8), (8, 2, 3, 3)])
def test_a_rank_one_gradient_has_no_directions_of_noise(make, shape):
    generator = torch.Generator().manual_seed(4)
    left, right = (
        torch.randn(shape[0], 1, generator=generator),
        torch.randn(1, math.prod(shape[1:]), generator=generator),
    )
    v = make(4, 1.0).lmo((left @ right).reshape(shape)).flatten(1)
    values = torch.linalg.svdvals(v)
    assert values[0].item() == pytest.approx(1.0, rel=1e-5)
    assert values[1] < 1e-5


def test_the_spectral_ball_of_a_rank_deficient_gradient_has_no_noise():
    w = torch.zeros(6, 6)
    w[:2, :2] = torch.eye(2)
    torch.testing.assert_close(spectral_ball(1.0).lmo(w), -w)


@pytest.mark.parametrize("size", [4.5e-23, 3e-23, 1e-20, 1e-18, 1e-12])
@pytest.mark.parametrize("gauge", [Lp(math.inf), TopK(3, math.inf), TopK(2)])
@pytest.mark.parametrize("coupled", [False, True])
def test_a_filter_whose_squares_underflow_makes_no_infeasible_vertex(size, gauge, coupled):
    g = torch.zeros(3, 2)
    g[0, 0], g[1, 0], g[2, 1] = 1.0, size, -size
    view = Coupled((Filters(), Filters())) if coupled else Filters()
    ball = Ball(gauge, view, 1.0)
    point = (g, torch.zeros(3)) if coupled else g
    assert ball.contains(ball.lmo(point), tol=1e-6)


def test_radial_scaling_is_exact_and_has_no_floor():
    for size in (1e-30, 1e-3, 2.0, 1e30):
        x = torch.full((4,), size)
        scaled = l2_ball(1.0).scale_into(x)
        torch.testing.assert_close(scaled, x if size < 0.5 else torch.full((4,), 0.5))
    x = tensor([3.0, -4.0])
    assert torch.equal(l2_ball(10.0).scale_into(x), x)


def test_radial_scaling_of_float16_does_not_round_the_factor_to_nothing():
    x = torch.full((200_000,), 60000.0, dtype=torch.float16)
    for ball in (l1_ball(1.0), l2_ball(1.0)):
        y = ball.scale_into(x)
        assert ball.value(y).item() == pytest.approx(1.0, rel=0.02)


@pytest.mark.parametrize("region", EVERY, ids=title)
def test_changing_k_mid_run_keeps_weights_scalable_into_the_region(region):
    x = region.project(torch.randn(6, 5, generator=torch.Generator().manual_seed(5)) * 10)
    for k in (1, 2, 0.5, 1.0):
        other = Ball(TopK(k, 2.0), region.view, region.radius)
        y = other.scale_into(x)
        assert other.contains(y, tol=1e-5)
        moved = 0.7 * y + 0.3 * other.lmo(torch.ones_like(y))
        assert other.contains(moved, tol=1e-5)


@pytest.mark.parametrize("region", EVERY, ids=title)
def test_channels_last_gradients_give_the_same_vertices(region):
    g = torch.randn(4, 3, 5, 5, generator=torch.Generator().manual_seed(6))
    last = g.contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(region.lmo(last), region.lmo(g), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "gauge", [TopK(1), TopK(2), TopK(2, math.inf), Lp(1.0), Lp(1.5), Lp(2.0), Lp(3.0), Lp(math.inf)]
)
@pytest.mark.parametrize("view", [Entries(), Filters(), Singular()])
def test_a_penalty_at_zero_has_gradient_zero_and_not_nan(gauge, view):
    x = torch.zeros(3, 4, requires_grad=True)
    Penalty(gauge, view, 0.5).value(x).backward()
    assert x.grad.isfinite().all()


@pytest.mark.parametrize("gauge", [TopK(2), TopK(1), Lp(2.0)])
def test_nan_is_neither_feasible_nor_silently_zero(gauge):
    for view in (Entries(), Filters()):
        ball = Ball(gauge, view, 1.0)
        assert not ball.contains(tensor([[1.0, math.nan], [0.5, 0.5]]), tol=1e6)
        assert ball.value(torch.full((2, 2), math.nan)).isnan()


@pytest.mark.parametrize(
    "gauge", [TopK(1), TopK(2), TopK(2, math.inf), Lp(1.0), Lp(1.5), Lp(2.0), Lp(3.0), Lp(math.inf)]
)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_does_not_look_feasible_afterwards(gauge, bad):
    for view in (Entries(), Filters()):
        ball, x = Ball(gauge, view, 1.0), tensor([[1.0, bad], [0.5, 0.5]])
        for moved in (ball.project(x), ball.scale_into(x)):
            assert moved.isnan().any()
            assert not ball.contains(moved, tol=1e6)


def test_prox_of_tiny_tensors_neither_underflows_nor_overflows():
    for size in (1e-25, 1e25):
        x = size * torch.ones(3, 4)
        for view in (Entries(), Filters(), Singular()):
            torch.testing.assert_close(Penalty(Lp(2.0), view, 1.0).prox(x, 0.0) / size, x / size)


def test_diameter_of_the_catalogue():
    shape, n = (4, 6), 24
    assert l1_ball(2.0).diameter(shape) == 4.0
    assert CATALOGUE["linf-ball"](2.0).diameter(shape) == pytest.approx(4 * math.sqrt(n))
    assert k_sparse_polytope(9, 2.0).diameter(shape) == pytest.approx(12.0)
    assert CATALOGUE["group-k-sparse-polytope"](0.5, 2.0).diameter(shape) == pytest.approx(4 * math.sqrt(2))
    assert spectral_ball(2.0).diameter(shape) == pytest.approx(8.0)
    assert lp_ball(4.0, 1.0).diameter((16,)) == pytest.approx(2 * 16**0.25)


@pytest.mark.parametrize("region", EVERY, ids=title)
def test_every_name_of_the_catalogue_obeys_the_laws(region):
    case = of(region, (4, 2, 3), trials=1)
    for law in REGION_LAWS:
        if not law.__name__.startswith("project"):  # those run for every gauge and view in test_region_laws
            law(case)


def test_an_lmo_takes_a_parameter_that_needs_no_gradient_history():
    g = torch.randn(3, 4)
    assert not any(region.lmo(g).requires_grad for region in EVERY)
    assert nuclear_ball(1.0).lmo(g).shape == g.shape
    assert group_k_support_ball(1, 1.0).lmo(g).shape == g.shape


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: l2_ball(0.0), "radius must be positive and finite, found 0.0"),
        (lambda: l2_ball(-1.0), "radius must be positive and finite, found -1.0"),
        (lambda: l2_ball(math.inf), "radius must be positive and finite, found inf"),
        (lambda: l2_ball(math.nan), "radius must be positive and finite, found nan"),
        (lambda: Lp(0.5), r"p must be at least 1 .*found 0.5"),
        (lambda: Lp(math.nan), r"p must be at least 1 .*found nan"),
        (lambda: TopK(2, 3.0), r"p must be 2 or infinity .*found 3.0"),
        (lambda: Penalty(Lp(2.0), Entries(), -1.0), "weight must be at least 0 and finite, found -1.0"),
        (lambda: Axes(out=-1), "out must be an axis number >= 0, found -1"),
        (lambda: Axes(groups=0), "groups must be an int of at least 1, found 0"),
        (lambda: Joint(()), "members must hold at least one view"),
        (lambda: Joint((Entries(), Entries(1))), "members must agree on batch"),
        (lambda: Coupled((Filters(), Entries())), "must be Filters or Slices views"),
        (lambda: Scaled(Entries(), (1.0, 2.0)), "factors must be 1 numbers"),
        (lambda: Scaled(Entries(), (0.0,)), "factors must be positive and finite"),
        (lambda: Ball(TopK(1), Filters(Axes(groups=3)), 1.0).lmo(torch.ones(4, 2)), "groups must divide"),
        (lambda: Ball(TopK(1), Filters(Axes(out=1)), 1.0).lmo(torch.ones(4)), "has no such axis"),
        (lambda: Ball(TopK(1), Filters(Axes(groups=3)), 1.0).lmo(torch.ones(())), "a scalar has no axis"),
        (lambda: l2_ball(1.0).lmo(torch.ones(0)), "at least one entry"),
        (
            lambda: Ball(TopK(1), Joint((Entries(), Entries())), 1.0).lmo((torch.ones(2),)),
            "2 tensors together, found 1",
        ),
        (
            lambda: Ball(TopK(1), Coupled((Filters(), Filters())), 1.0).lmo((torch.ones(2), torch.ones(3))),
            "equally many",
        ),
    ],
)
def test_errors_name_the_argument_the_range_and_what_was_found(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Ball("l2", Entries(), 1.0), "gauge must be a Gauge"),
        (lambda: Ball(Lp(2.0), "entries", 1.0), "view must be a View"),
        (lambda: Penalty(Lp(2.0), Lp(2.0), 1.0), "view must be a View"),
        (lambda: Joint((Entries(), "filters")), "members must be views"),
    ],
)
def test_parts_of_the_wrong_kind_are_refused_at_construction(make, message):
    with pytest.raises(TypeError, match=message):
        make()


@pytest.mark.parametrize("region", EVERY, ids=title)
def test_every_method_takes_a_scalar(region):
    x = tensor(-5.0)
    assert region.lmo(x).item() == pytest.approx(2.0)
    assert region.project(x).item() == pytest.approx(-2.0)
    assert region.scale_into(x).item() == pytest.approx(-2.0)
    assert region.gap(x, x).item() == pytest.approx(35.0)


@pytest.mark.parametrize("gauge", [TopK(1), TopK(2, math.inf)])
def test_projections_in_float64_are_float64_throughout(gauge):
    x = tensor([3.1, -1.7, 0.9, 0.3], dtype=torch.float64)
    ball = Ball(gauge, Entries(), 0.21)
    p = ball.project(x)
    assert ((x - p) @ p).item() == pytest.approx(0.21 * ball.dual(x - p).item(), rel=1e-14)


@pytest.mark.parametrize("ball", EVERY, ids=str)
def test_huge_points_are_outside_although_their_squares_are_not_finite(ball):
    x = torch.randn(4, 6, generator=torch.Generator().manual_seed(0)) * 1e25
    assert ball.contains(ball.project(x), tol=1e-5)
