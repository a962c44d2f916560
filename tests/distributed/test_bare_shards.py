"""Sharded parameters under gradients of their own: every region and placement steps as one process does."""

import math

import pytest
import scenes
import torch
from process_ranks import on_ranks
from scenes import REPLICATE, SHARD0, SHARD1

from pliant.optim import DiameterScaled, FastGradientScaled, Raw, Shrinkage, StochasticRounding
from pliant.regions import (
    CATALOGUE,
    Axes,
    Ball,
    Coupled,
    Filters,
    Lp,
    Scaled,
    Singular,
    TopK,
    k_support_ball,
    spectral_k_support_ball,
)

SHAPES = [(10, 3, 3, 3), (7,), (6, 5), (1, 4), ()]
MATRICES = [(10, 3, 3, 3), (6, 5), (5, 6)]
BIG_SHAPES = [(300, 150), (40, 900), (301, 150)]
BIG = [
    {"params": [0], "region": k_support_ball(0.1, 3.0)},
    {"params": [1], "region": spectral_k_support_ball(0.1, 3.0)},
    {"params": [2], "region": Ball(TopK(0.1), Filters(), 3.0)},
]
GROUPED = [
    {"params": [0], "region": Ball(TopK(4), Filters(Axes(out=1, groups=2)), 1.0)},
    {"params": [1], "region": Ball(TopK(4), Singular(Axes(out=1, groups=2)), 1.0)},
    {"params": [2], "region": Ball(TopK(4), Singular(Axes(groups=2)), 1.0)},
    {"params": [3], "region": None, "lr": 0.05, "momentum": 0.9, "weight_decay": 1e-3},
]


def catalogue(shapes):
    """Return groups and shapes: every shape in every region of the catalogue."""
    regions = []
    for name, make in CATALOGUE.items():
        options = {"k": 0.3} if "-k-" in f"-{name}" else {"p": 3.0} if name == "lp-ball" else {}
        regions.append(make(radius=2.0, **options))
    n = len(shapes)
    groups = [{"params": [r * n + i for i in range(n)], "region": region} for r, region in enumerate(regions)]
    return groups, shapes * len(regions)


def joint(p):
    view = Scaled(Coupled((Filters(), Filters(), Filters())), (1.0, 2.0, 0.5))
    return [{"params": [0, 1, 2], "region": Ball(TopK(3, p), view, 1.0)}]


def small():
    """Return cases that take a second: groups, shapes, steps, options of the optimizer."""
    groups = [*GROUPED[:1], {"params": [1, 2], "region": spectral_k_support_ball(2, 1.0)}, *GROUPED[3:]]
    yield groups, [(6, 4, 3), (6, 5), (5, 2), (5, 3)], 4, {}
    yield joint(2.0), [(9, 4), (9,), (9, 2, 2)], 3, {}
    yield BIG[:1], BIG_SHAPES[:1], 3, {"step_rule": Shrinkage(1.0, 20)}


def large():
    yield *catalogue(SHAPES), 5, {}
    yield joint(math.inf), [(9, 4), (9,), (9, 2, 2)], 5, {"exact": True}
    yield GROUPED, [(6, 4, 3), (6, 4, 3), (8, 5), (5, 3)], 5, {}
    yield BIG, BIG_SHAPES, 4, {}
    yield [{"params": [0], "region": Ball(Lp(2.0), Filters(), 1.0)}], [(9, 4)], 5, {"momentum": 0.0, "dampening": 0.5}
    for rule in (FastGradientScaled(), DiameterScaled(), Raw(), Shrinkage(1.0, 20)):
        yield [{"params": [0, 1], "region": spectral_k_support_ball(2, 1.0)}], MATRICES[:2], 5, {"step_rule": rule}


def columns():
    yield *catalogue(MATRICES), 5, {}
    yield BIG, BIG_SHAPES, 4, {}


def run_all(cases, placements, mesh):
    return [scenes.bare(*case, placements=placements, mesh_shape=mesh) for case in cases]


def require_alike(one, other, *, exact=False):
    closeness = {"atol": 0.0, "rtol": 0.0} if exact else {"atol": 1e-12, "rtol": 1e-9}
    for a, b in zip(one, other, strict=True):
        torch.testing.assert_close(b.weights, a.weights, **closeness)
        torch.testing.assert_close(b.momenta, a.momenta, **closeness)
        torch.testing.assert_close(
            b.memories, a.memories, **({"atol": 1e-6, "rtol": 1e-6} | closeness if exact else {})
        )
        torch.testing.assert_close(b.accounts, a.accounts, **closeness)


LAYOUTS = {
    "two ranks, rows": (small, 2, [SHARD0], (2,)),
    "two ranks, rows, everything": (large, 2, [SHARD0], (2,)),
    "four ranks, rows": (large, 4, [SHARD0], (4,)),
    "four ranks, columns": (columns, 4, [SHARD1], (4,)),
    "repeated twice, cut in two": (large, 4, [REPLICATE, SHARD0], (2, 2)),
    "cut in four by two dimensions": (large, 4, [SHARD0, SHARD0], (2, 2)),
    "whole on two ranks": (small, 2, [REPLICATE], (2,)),
}
FAST = ("two ranks, rows",)


@pytest.mark.parametrize(
    "layout", [pytest.param(name, marks=[] if name in FAST else pytest.mark.slow) for name in LAYOUTS]
)
def test_sharded_parameters_step_as_those_of_one_process(layout):
    cases, world, placements, mesh = LAYOUTS[layout]
    alone = run_all(list(cases()), None, None)
    sizes = [float(account[1]) for outcome in alone for account in outcome.accounts if account]
    assert any(0.0 < size < 0.5 for size in sizes)  # at a step size of 1 nothing would depend on norms
    assert sum(size < 1.0 for size in sizes) > 0.8 * len(sizes)
    several = on_ranks(world, run_all, list(cases()), placements, mesh, timeout=240)
    for rank in several:
        require_alike(alone, rank)
        require_alike(several[0], rank, exact=True)


def rounded(placements, mesh):
    groups = [{"params": [0], "region": spectral_k_support_ball(2, 1.0)}, {"params": [1], "region": None}]
    options = {"precision": StochasticRounding(seed=3), "momentum": 0.5, "weight_decay": 0.0}
    return scenes.bare(
        groups, [(40, 30), (31, 20)], 3, options, placements=placements, mesh_shape=mesh, dtype=torch.bfloat16
    )


@pytest.mark.slow
def test_the_stochastic_roundings_of_shards_are_those_of_the_whole():
    expected = rounded(None, None)
    assert all(bool((w != scenes.start(i, w.shape).bfloat16()).any()) for i, w in enumerate(expected.weights))
    for found in on_ranks(3, rounded, [SHARD0], (3,)):
        for a, b in zip(found.weights, expected.weights, strict=True):
            assert (a != b).float().mean() < 0.01  # where a norm in another order tips the scales
