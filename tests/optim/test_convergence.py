"""Frank-Wolfe finds the optimum of a convex quadratic over a ball, as judged by an independent solver."""

import math

import cvxpy as cp
import numpy as np
import pytest
import torch
from torch import nn

from pliant.optim import SFW, GradientScaled, Raw
from pliant.regions import (
    group_k_support_ball,
    group_lasso_ball,
    k_sparse_polytope,
    k_support_ball,
    l1_ball,
    l2_ball,
    linf_ball,
    lp_ball,
    nuclear_ball,
    spectral_ball,
    spectral_k_sparse_polytope,
)

SHAPE, RADIUS = (4, 3), 1.5


def k_support(x, k):
    """The variational form: norm^2 is the minimum of sum x_i^2 / theta_i over theta in [0, 1]^n, sum(theta) <= k."""
    theta = cp.Variable(x.shape[0])
    ratio = sum(cp.quad_over_lin(x[i], theta[i]) for i in range(x.shape[0]))
    return [ratio <= RADIUS**2, theta >= 1e-9, theta <= 1, cp.sum(theta) <= k]


BALLS = {
    "l1": (l1_ball(RADIUS), lambda x: [cp.sum(cp.abs(x)) <= RADIUS]),
    "l2": (l2_ball(RADIUS), lambda x: [cp.norm(x, "fro") <= RADIUS]),
    "linf": (linf_ball(0.3), lambda x: [cp.max(cp.abs(x)) <= 0.3]),
    "l3": (lp_ball(3.0, RADIUS), lambda x: [cp.pnorm(cp.vec(x, order="C"), 3) <= RADIUS]),
    "k-sparse": (
        k_sparse_polytope(3, 0.5),
        lambda x: [cp.max(cp.abs(x)) <= 0.5, cp.sum(cp.abs(x)) <= 1.5],
    ),
    "k-support": (k_support_ball(3, RADIUS), lambda x: k_support(cp.vec(x, order="C"), 3)),
    "group-lasso": (group_lasso_ball(RADIUS), lambda x: [cp.sum(cp.norm(x, 2, axis=1)) <= RADIUS]),
    "group-k-support": (group_k_support_ball(2, RADIUS), lambda x: k_support(x, 2)),
    "nuclear": (nuclear_ball(RADIUS), lambda x: [cp.normNuc(x) <= RADIUS]),
    "spectral": (spectral_ball(0.6), lambda x: [cp.sigma_max(x) <= 0.6]),
    "spectral-k-sparse": (
        spectral_k_sparse_polytope(2, 0.6),
        lambda x: [cp.sigma_max(x) <= 0.6, cp.normNuc(x) <= 1.2],
    ),
}


def solved(a, b, constraints):
    x = cp.Variable(SHAPE)
    problem = cp.Problem(cp.Minimize(0.5 * cp.sum_squares(a @ x - b)), constraints(x))
    return problem.solve(solver=cp.CLARABEL)


@pytest.mark.parametrize("ball", BALLS)
def test_the_gap_closes_at_the_optimum(ball):
    region, constraints = BALLS[ball]
    draws = np.random.default_rng(1)
    a, b = draws.standard_normal((6, 4)), 2.0 * draws.standard_normal((6, 3))
    optimum = solved(a, b, constraints)
    p, a, b = nn.Parameter(torch.zeros(SHAPE, dtype=torch.float64)), torch.tensor(a), torch.tensor(b)
    optimizer = SFW([{"params": [p], "region": region}], lr=1.0, momentum=0.0, step_rule=Raw())
    best = math.inf
    for step in range(600):
        optimizer.param_groups[0]["lr"] = 2.0 / (step + 2.0)
        loss = float(0.5 * (a @ p.detach() - b).square().sum())
        p.grad = a.T @ (a @ p.detach() - b)
        gap = optimizer.diagnostics()[0].gap
        assert gap >= loss - optimum - 1e-6  # the gap bounds the error from above
        best = min(best, gap)
        optimizer.step()
    loss = float(0.5 * (a @ p.detach() - b).square().sum())
    assert optimum - 1e-6 <= loss <= optimum + 0.01 * abs(optimum)
    assert best <= 0.05 * abs(optimum)


def test_the_gradient_rule_finds_an_optimum_inside_as_sgd_does():
    torch.manual_seed(0)
    goal = 0.1 * torch.randn(4, 3, dtype=torch.float64)
    p = nn.Parameter(torch.zeros(4, 3, dtype=torch.float64))
    optimizer = SFW([{"params": [p], "region": nuclear_ball(50.0)}], lr=0.1, momentum=0.0, step_rule=GradientScaled())
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 400)
    for _ in range(400):
        p.grad = p.detach() - goal
        optimizer.step()
        schedule.step()
    assert float((p.detach() - goal).norm()) < 0.02 * float(goal.norm())
