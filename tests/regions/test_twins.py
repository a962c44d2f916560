import math

import numpy as np
import pytest
import torch
import twins

from pliant.regions import (
    Ball,
    Entries,
    Filters,
    Lp,
    Penalty,
    Singular,
    TopK,
    group_k_support_ball,
    group_lasso_ball,
    k_sparse_polytope,
    k_support_ball,
    lp_ball,
    nuclear_ball,
    spectral_k_sparse_polytope,
)

VIEWS = [(Entries(), twins.entries), (Filters(), twins.filters), (Singular(), twins.singular)]


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def vectors():
    for seed in range(4):
        yield draw(6, seed=seed).numpy()
    yield np.array([1.0, 1.0, 1.0, 1.0, 1.0, 1.0])
    yield np.array([2.0, 2.0, 1.0, 0.0, 0.0, 0.0])
    yield np.array([-3.0, 0.0, 0.0, 0.0, 0.0, 0.0])


@pytest.mark.parametrize("k", [1, 2, 3, 5, 6])
def test_the_k_support_norm_is_that_of_the_enumeration_over_splits(k):
    for a in vectors():
        expected = twins.k_support_norm(np.abs(a), k)
        assert k_support_ball(k, 1.0).value(torch.tensor(a)).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("k", [1, 2, 4, 6])
def test_the_k_support_norm_is_that_of_the_variational_form(k):
    for a in vectors():
        expected = twins.k_support_norm_variational(a, k)
        assert k_support_ball(k, 1.0).value(torch.tensor(a)).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("p", [2.0, math.inf])
@pytest.mark.parametrize("k", [1, 2, 3])
def test_dual_norm_and_lmo_are_those_of_the_enumeration_over_supports(k, p):
    for view, naive in VIEWS:
        for seed in range(3):
            g = draw(4, 3, seed=seed) if naive is not twins.entries else draw(3, 2, seed=seed)
            ball = Ball(TopK(k, p), view, 1.5)
            dual, vertex = twins.dual_and_vertex(naive(g.numpy()), k, p)
            assert ball.dual(g).item() == pytest.approx(dual, rel=1e-10)
            v = ball.lmo(g)
            np.testing.assert_allclose(np.sort(naive(v.numpy())), np.sort(1.5 * vertex), atol=1e-7)
            assert (v * g).sum().item() == pytest.approx(-1.5 * dual, rel=1e-10)


@pytest.mark.parametrize("gauge", [Lp(1.0), Lp(1.5), Lp(2.0), Lp(3.0), Lp(math.inf), TopK(2), TopK(2, math.inf)])
def test_norms_are_those_of_the_naive_views(gauge):
    for view, naive in VIEWS:
        w = draw(4, 3, 2, seed=7)
        a = naive(w.numpy())
        if isinstance(gauge, Lp):
            expected = np.linalg.norm(a, gauge.p)
        elif gauge.p == math.inf:
            expected = max(a.max(), a.sum() / gauge.k)
        else:
            expected = twins.k_support_norm(a, gauge.k)
        assert Ball(gauge, view, 1.0).value(w).item() == pytest.approx(expected, rel=1e-10)


def agree(ball, x, constraints):
    x = x / ball.value(x) * 2.5 * ball.radius
    expected = twins.project_by_solver(x.numpy(), constraints)
    np.testing.assert_allclose(ball.project(x).numpy(), expected, atol=2e-4 * ball.radius)


@pytest.mark.parametrize("k", [1, 2, 4, 6])
def test_k_support_projection_is_that_of_a_convex_solver(k):
    for a in vectors():
        agree(k_support_ball(k, 1.5), torch.tensor(a), twins.in_k_support_ball(1.5, k))


@pytest.mark.parametrize("k", [1, 2, 4])
def test_group_k_support_projection_is_that_of_a_convex_solver(k):
    agree(group_k_support_ball(k, 1.5), draw(4, 3, seed=8), twins.in_group_k_support_ball(1.5, k))


@pytest.mark.parametrize("k", [1, 2, 5])
def test_k_sparse_projection_is_that_of_a_convex_solver(k):
    for a in vectors():
        agree(k_sparse_polytope(k, 0.8), torch.tensor(a), twins.in_k_sparse_polytope(0.8, k))


@pytest.mark.parametrize("k", [1, 2, 3])
def test_ky_fan_projection_is_that_of_a_convex_solver(k):
    agree(spectral_k_sparse_polytope(k, 0.8), draw(3, 4, seed=9), twins.in_spectral_k_sparse_polytope(0.8, k))


def test_nuclear_and_group_lasso_projections_are_those_of_a_convex_solver():
    agree(nuclear_ball(1.2), draw(3, 4, seed=10), twins.in_nuclear_ball(1.2))
    agree(group_lasso_ball(1.2), draw(4, 3, seed=11), twins.in_group_lasso_ball(1.2))


@pytest.mark.parametrize("p", [1.5, 3.0])
def test_lp_projection_is_that_of_a_convex_solver(p):
    agree(lp_ball(p, 1.2), draw(5, seed=12), twins.in_lp_ball(1.2, p))


@pytest.mark.parametrize("p", [1.2, 1.5, 1.9, 2.5, 3.0, 8.0])
@pytest.mark.parametrize("radius", [1e-3, 0.3, 2.0])
def test_lp_projection_is_that_of_plain_bisection(p, radius):
    for x in (draw(40, seed=14).abs(), draw(40, seed=15).abs() ** 8, torch.tensor([3.0, 3.0, 0.0, 1e-9]).double()):
        found = lp_ball(p, radius).project(x)
        torch.testing.assert_close(found, twins.onto_lp_ball_by_bisection(x, p, radius), rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("k", [1, 2, 7, 12])
@pytest.mark.parametrize("step", [1e-6, 0.1, 1.0, 4.0, 100.0])
def test_prox_of_the_k_sparse_gauge_is_that_of_plain_bisection(k, step):
    for x in (draw(12, seed=16), draw(12, seed=17).round(), torch.tensor([2.0] * 11 + [0.0]).double()):
        found = Penalty(TopK(k, math.inf), Entries(), 1.0).prox(x, step)
        expected = twins.prox_by_bisection(lambda radius: k_sparse_polytope(k, radius), x, step)
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("k", [1, 2, 4])
def test_the_prox_is_no_worse_than_its_neighbours(k):
    x = draw(6, seed=13)
    for p in (2.0, math.inf):
        penalty = Penalty(TopK(k, p), Entries(), 0.6)
        z = penalty.prox(x, 0.5)

        def cost(y, penalty=penalty):
            return 0.5 * (y - x).square().sum() + 0.5 * penalty.value(y)

        for seed in range(20):
            for size in (1e-4, 1e-2, 1.0):
                assert cost(z) <= cost(z + size * draw(6, seed=100 + seed)) + 1e-12


def test_the_lmo_of_lp_is_the_gradient_of_the_dual_norm():
    for p in (1.2, 2.0, 3.0, 7.0):
        ball = lp_ball(p, 1.0)
        g = draw(6, seed=14).requires_grad_()
        (gradient,) = torch.autograd.grad(g.norm(p / (p - 1)), g)
        torch.testing.assert_close(-ball.lmo(g.detach()), gradient)
