"""The oracles that keep state: how near they come, how they recover, what they remember, and what they never do."""

import io
import math

import pytest
import torch

from pliant.regions import (
    Axes,
    Ball,
    Singular,
    TopK,
    k_sparse_polytope,
    k_support_ball,
    nuclear_ball,
    spectral_ball,
    spectral_k_sparse_polytope,
    spectral_k_support_ball,
    subspace,
)
from pliant.regions.orthogonal import _by_cholesky, orthonormal_columns, polar
from pliant.testing import HostReads


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def decaying(shape, draws, power=1.0):
    """A matrix whose singular values fall as 1 / i^power, as those of gradients do."""
    short = min(shape)
    left = torch.linalg.qr(torch.randn(shape[0], short, generator=draws))[0]
    right = torch.linalg.qr(torch.randn(shape[1], short, generator=draws))[0]
    return (left * torch.arange(1, short + 1) ** -power) @ right.T


def share(ball, v, g):
    return -float((v.double() * g.double()).sum()) / (ball.radius * float(ball.dual(g)))


SPECTRAL = [
    nuclear_ball(2.0),
    spectral_k_support_ball(0.1, 2.0),
    spectral_k_support_ball(0.7, 2.0),
    spectral_k_sparse_polytope(0.1, 2.0),
    spectral_ball(2.0),
]


@pytest.mark.parametrize("shape", [(40, 90), (90, 40), (64, 64)], ids=str)
@pytest.mark.parametrize("ball", SPECTRAL, ids=lambda ball: str(ball.gauge))
def test_drifting_gradients_are_followed_closely(ball, shape):
    draws, state, shares = generator(), {}, []
    g, trend, turn = torch.zeros(shape), decaying(shape, draws), 0.1 * torch.randn(shape[0], shape[0], generator=draws)
    for _ in range(30):
        trend = torch.linalg.matrix_exp(0.3 * (turn - turn.T)) @ trend
        g = 0.9 * g + 0.1 * trend + 0.02 * torch.randn(shape, generator=draws) / math.sqrt(shape[1])
        shares.append(share(ball, ball.lmo(g, state), g))
    assert min(shares) > 0.95
    assert sum(shares) / len(shares) > 0.98


@pytest.mark.parametrize("ball", SPECTRAL, ids=lambda ball: str(ball.gauge))
def test_a_gradient_that_jumps_to_an_orthogonal_subspace_is_found_within_a_few_steps(ball):
    draws, state = generator(), {}
    basis = torch.linalg.qr(torch.randn(200, 80, generator=draws))[0]
    first, second = decaying((40, 40), draws) @ basis[:, :40].T, decaying((40, 40), draws) @ basis[:, 40:].T
    for _ in range(5):
        ball.lmo(first, state)
    shares = []
    for _ in range(5):
        v = ball.lmo(second, state)
        assert ball.contains(v.double(), tol=1e-5)
        shares.append(share(ball, v, second))
    assert shares[-1] > 0.97


@pytest.mark.parametrize("bad", [math.nan, math.inf, 0.0])
def test_a_lost_subspace_is_found_again(bad):
    ball, state, g = spectral_k_support_ball(3, 1.0), {}, decaying((30, 50), generator())
    ball.lmo(g, state)
    state["subspace"].fill_(bad)
    for _ in range(4):
        v = ball.lmo(g, state)
        assert ball.contains(v.double(), tol=1e-5)
    assert share(ball, v, g) > 0.98


@pytest.mark.parametrize("rank", [1, 2])
@pytest.mark.parametrize("ball", [SPECTRAL[1], SPECTRAL[3], SPECTRAL[4]], ids=lambda ball: str(ball.gauge))
def test_rank_deficient_gradients_give_no_directions_of_noise(ball, rank):
    draws, state = generator(1), {}
    for _ in range(3):
        left, right = torch.randn(60, rank, generator=draws), torch.randn(rank, 80, generator=draws)
        values = torch.linalg.svdvals(ball.lmo(left @ right, state).double())
        assert float(values[rank - 1]) > 0.1
        assert float(values[rank]) < 2e-3 * ball.radius


@pytest.mark.parametrize("size", [1e-20, 1e20])
@pytest.mark.parametrize("ball", SPECTRAL, ids=lambda ball: str(ball.gauge))
def test_tiny_and_huge_gradients_have_the_vertices_of_others(ball, size):
    g = decaying((20, 30), generator())
    torch.testing.assert_close(ball.lmo(size * g, {}), ball.lmo(g, {}), atol=2e-3, rtol=0.0)


@pytest.mark.parametrize("power", [0.0, 1.0, 3.0])
@pytest.mark.parametrize("groups", [1, 2])
def test_products_of_16_bits_lose_nothing_that_matters(monkeypatch, power, groups):
    """Vertices stay feasible in full precision and as good, whether the singular values fall or not."""
    shares = {}
    for half in (False, True):
        monkeypatch.setattr(subspace, "_multiplies_halves", lambda _, answer=half: answer)
        ball, state, draws = Ball(TopK(0.1), Singular(Axes(groups=groups)), 2.0), {}, generator()
        g = torch.cat([decaying((256, 300), draws, power) for _ in range(groups)])
        for _ in range(4):
            v = ball.lmo(g, state)
            assert ball.contains(v.double(), tol=1e-6)
        shares[half] = share(ball, v, g)
    assert shares[True] == pytest.approx(shares[False], abs=1e-3)
    assert shares[True] != shares[False]  # the two ways are two


def test_large_matrices_of_low_rank_give_no_directions_of_noise():
    draws, ball, state = generator(1), spectral_k_sparse_polytope(0.1, 2.0), {}
    for _ in range(3):
        values = torch.linalg.svdvals(
            ball.lmo(torch.randn(256, 1, generator=draws) @ torch.randn(1, 300, generator=draws), state).double()
        )
        assert float(values[0]) > 1.9
        assert float(values[1]) < 2e-3 * ball.radius


def test_the_largest_terms_are_chosen_over_all_groups_together():
    axes = Axes(groups=3)
    ball, state = Ball(TopK(4), Singular(axes), 2.0), {}
    g = torch.cat([scale * decaying((10, 30), generator(i)) for i, scale in enumerate((1.0, 1e-3, 0.7))])
    for _ in range(4):
        v = ball.lmo(g, state)
    assert share(ball, v, g) > 0.999
    assert float(v[10:20].norm()) == 0.0
    assert sum(int(torch.linalg.matrix_rank(block, rtol=1e-4)) for block in v.split(10)) <= 4


def test_a_changed_k_starts_afresh():
    g, state = decaying((40, 60), generator()), {}
    for k in (2, 9, 1):
        ball = spectral_k_support_ball(k, 1.0)
        assert share(ball, ball.lmo(g, state), g) > 0.98


def test_what_an_oracle_remembers_survives_a_file():
    ball, g, state = spectral_k_support_ball(3, 1.0), decaying((30, 40), generator()), {}
    ball.lmo(g, state)
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    again = torch.load(file, weights_only=True)
    assert torch.equal(ball.lmo(g, again), ball.lmo(g, state))


def test_autocast_changes_nothing():
    ball, g = spectral_k_support_ball(3, 1.0), decaying((30, 40), generator())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = ball.lmo(g, {})
    assert torch.equal(found, ball.lmo(g, {}))


@pytest.mark.parametrize("n", [40_000, 400_000])
@pytest.mark.parametrize("k", [1, 0.0005, 0.03, 0.1, 0.5, 0.9])
@pytest.mark.parametrize("make", [k_support_ball, k_sparse_polytope])
def test_large_tensors_get_their_largest_entries_without_sorting(make, k, n):
    ball, draws, state, shares = make(k, 2.0), generator(), {}, []
    g = torch.randn(n, generator=draws)
    for step in range(16):
        g = 0.9 * g + 0.44 * torch.randn(n, generator=draws)
        with HostReads() as seen:
            v = ball.lmo(g, state)
        assert seen.reads == []
        assert ball.contains(v.double(), tol=1e-6)
        shares += [share(ball, v, g)] * (step >= 6)
    assert sum(shares) / len(shares) > 0.98
    assert min(shares) > 0.95


def strong_centre(shape):
    scale = torch.full(shape[2:], 0.2)
    scale[1, 1] = 1.0
    return shape, scale


def falling(shape, *dims):
    scale = torch.ones([1] * len(shape))
    for dim in dims:
        ranks = torch.arange(1, shape[dim] + 1).reshape([-1 if i == dim else 1 for i in range(len(shape))])
        scale = scale * ranks**-0.7
    return shape, scale


STRUCTURES = {
    "strong kernel centre": strong_centre((256, 256, 3, 3)),
    "strong kernel centre of a large tensor": strong_centre((512, 512, 3, 3)),
    "falling columns": falling((1024, 1024), 1),
    "falling rows": falling((1024, 1024), 0),
    "falling rows and columns": falling((256, 256, 3, 3), 0, 1),
}


@pytest.mark.parametrize("k", [0.1, 0.4])
@pytest.mark.parametrize("make", [k_support_ball, k_sparse_polytope])
@pytest.mark.parametrize("name", STRUCTURES)
def test_the_sample_of_a_large_tensor_sees_every_place_of_its_layout_alike(name, make, k):
    ball, state = make(k, 2.0), {}
    shape, scale = STRUCTURES[name]
    g = scale * torch.randn(shape, generator=generator())
    shares = [share(ball, ball.lmo(g, state), g) for _ in range(5)]
    assert shares[0] >= 0.97
    assert min(shares[3:]) >= 0.99


@pytest.mark.parametrize("make", [k_support_ball, k_sparse_polytope])
@pytest.mark.parametrize("kind", ["ties", "sparse", "zero"])
def test_ties_and_zeros_of_large_tensors_are_legal(make, kind):
    n = 50_000
    g = {"ties": torch.ones(n), "sparse": torch.randn(n, generator=generator()), "zero": torch.zeros(n)}[kind]
    if kind == "sparse":
        g = g * (torch.arange(n) % 97 == 0)
    ball, state = make(0.1, 2.0), {}
    for _ in range(3):
        v = ball.lmo(g, state)
        assert ball.contains(v.double(), tol=1e-6)
    if kind != "zero":
        assert share(ball, v, g) > 0.98


@pytest.mark.parametrize("shape", [(512, 60), (60, 60)], ids=str)
@pytest.mark.parametrize("way", [orthonormal_columns, _by_cholesky])
def test_columns_are_orthonormal_also_where_they_depend_on_each_other(way, shape):
    draws = generator()
    full = torch.randn(shape, generator=draws)
    one = torch.randn(shape[0], 1, generator=draws) @ torch.randn(1, shape[1], generator=draws)
    for matrix in (full, one, torch.zeros(shape), full * torch.logspace(0, -8, shape[1])):
        norms = matrix.norm(dim=0)
        q = way(matrix / torch.where(norms > 0, norms, 1.0))
        torch.testing.assert_close(q.T @ q, torch.eye(shape[1]), atol=1e-5, rtol=0.0)
    unit = full / full.norm(dim=0)
    q = way(unit)
    torch.testing.assert_close(q @ (q.T @ unit), unit, atol=5e-3, rtol=0.0)


@pytest.mark.parametrize("condition", [1.0, 1e2, 1e3])
@pytest.mark.parametrize("shape", [(4, 27), (64, 200), (200, 64)], ids=str)
def test_polar_factors_are_those_of_the_singular_value_decomposition(shape, condition):
    draws, short = generator(), min(shape)
    left = torch.linalg.qr(torch.randn(shape[0], short, generator=draws))[0]
    right = torch.linalg.qr(torch.randn(shape[1], short, generator=draws))[0]
    found = polar(1e-9 * (left * torch.logspace(0, -math.log10(condition), short)) @ right.T)
    torch.testing.assert_close(found, left @ right.T, atol=5e-3, rtol=0.0)
    assert float(torch.linalg.svdvals(found.double())[0]) <= 1.0 + 1e-7
