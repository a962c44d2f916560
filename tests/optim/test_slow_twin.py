"""SFW against a literal transcription of its formulas in NumPy, and against torch's SGD where they coincide."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from pliant.optim import (
    SFW,
    Constant,
    Cosine,
    DiameterScaled,
    FastGradientScaled,
    GradientScaled,
    Linear,
    Raw,
    Shrinkage,
)
from pliant.regions import k_sparse_polytope, k_support_ball, l1_ball, l2_ball, linf_ball, nuclear_ball

RADIUS, K, STEPS, LR = 2.0, 3, 20, 0.3


def l2_vertex(m):
    return -RADIUS * m / np.linalg.norm(m)


def l1_vertex(m):
    v = np.zeros(m.size)
    j = np.abs(m).argmax()
    v[j] = -RADIUS * np.sign(m.flat[j])
    return v.reshape(m.shape)


def linf_vertex(m):
    return -RADIUS * np.sign(m)


def top(m):
    kept = np.zeros(m.size)
    index = np.argsort(-np.abs(m), axis=None)[:K]
    kept[index] = m.flat[index]
    return kept.reshape(m.shape)


def k_support_vertex(m):
    return -RADIUS * top(m) / np.linalg.norm(top(m))


def k_sparse_vertex(m):
    return -RADIUS * np.sign(top(m))


def nuclear_vertex(m):
    left, _, right = np.linalg.svd(m)
    return -RADIUS * np.outer(left[:, 0], right[0])


N = 5 * 4
BALLS = {
    "l2": (l2_ball(RADIUS), l2_vertex, 2 * RADIUS),
    "l1": (l1_ball(RADIUS), l1_vertex, 2 * RADIUS),
    "linf": (linf_ball(RADIUS), linf_vertex, 2 * RADIUS * math.sqrt(N)),
    "k-support": (k_support_ball(K, RADIUS), k_support_vertex, 2 * RADIUS),
    "k-sparse": (k_sparse_polytope(K, RADIUS), k_sparse_vertex, 2 * RADIUS * math.sqrt(K)),
    "nuclear": (nuclear_ball(RADIUS), nuclear_vertex, 2 * RADIUS),
}


def linear_share(t):
    return 2 * (STEPS - t) / (STEPS * (STEPS + 1))


RULES = {
    "raw": (Raw(), lambda **_: 1.0),
    "diameter": (DiameterScaled(), lambda d, **_: 1.0 / d),
    "gradient": (GradientScaled(), lambda m, w, v, **_: np.linalg.norm(m) / np.linalg.norm(w - v)),
    "fast": (FastGradientScaled(), lambda m, d, **_: np.linalg.norm(m) / (d / 2)),
    "linear": (Shrinkage(3.0, STEPS), lambda t, **_: 3.0 * linear_share(t)),
    "constant": (Shrinkage(3.0, STEPS, Constant()), lambda **_: 3.0 / STEPS),
    "cosine": (
        Shrinkage(3.0, STEPS, Cosine()),
        lambda t, **_: 3.0 * (1 + math.cos(math.pi * (t + 0.5) / STEPS)) / STEPS,
    ),
}


@pytest.mark.parametrize("dampening", [0.0, 0.4])
@pytest.mark.parametrize("ball", BALLS)
@pytest.mark.parametrize("rule", RULES)
def test_twenty_steps_follow_the_formulas(ball, rule, dampening):
    region, vertex, diameter = BALLS[ball]
    step_rule, factor = RULES[rule]
    draws = np.random.default_rng(0)
    w = 0.05 * draws.standard_normal((5, 4))
    p, m = nn.Parameter(torch.tensor(w)), np.zeros((5, 4))
    optimizer = SFW(
        [{"params": [p], "region": region}],
        lr=LR,
        momentum=0.7,
        dampening=dampening,
        step_rule=step_rule,
        exact=True,
    )
    sizes = []
    for t in range(STEPS):
        g = draws.standard_normal((5, 4)) * 0.1 + w
        p.grad = torch.tensor(g)
        optimizer.step()
        m = 0.7 * m + (1 - dampening) * g
        v = vertex(m)
        alpha = min(max(LR * factor(m=m, w=w, v=v, d=diameter, t=t), 0.0), 1.0)
        w = (1 - alpha) * w + alpha * v
        sizes.append(alpha)
        np.testing.assert_allclose(p.detach().numpy(), w, atol=1e-12)
    (found,) = optimizer.diagnostics()
    assert found.step_size == pytest.approx(sizes[-1], rel=1e-12)
    assert found.shrinkage == pytest.approx(sum(sizes), rel=1e-12)
    assert found.kept == pytest.approx(math.prod(1 - a for a in sizes), rel=1e-12)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("decay", [0.0, 5e-3])
@pytest.mark.parametrize("as_tensor", [False, True])
def test_free_groups_are_sgd_to_the_bit(momentum, decay, as_tensor):
    torch.manual_seed(0)
    params = [nn.Parameter(torch.randn(37, 5)), nn.Parameter(torch.randn(3, 2, 3, 3)), nn.Parameter(torch.randn(()))]
    copies = [nn.Parameter(p.detach().clone()) for p in params]
    sgd = torch.optim.SGD(copies, lr=0.05, momentum=momentum, weight_decay=decay)
    lr = torch.tensor(0.05) if as_tensor else 0.05
    sfw = SFW([{"params": params, "region": None, "weight_decay": decay, "momentum": momentum, "lr": lr}], lr=1.0)
    for step in range(20):
        for p, q in zip(params, copies, strict=True):
            p.grad = torch.randn_like(p)
            q.grad = p.grad.clone()
        if step == 10:
            for optimizer in (sgd, sfw):
                optimizer.param_groups[0]["lr"] /= 3.0
        sgd.step()
        sfw.step()
    for p, q in zip(params, copies, strict=True):
        if as_tensor:
            torch.testing.assert_close(p, q)
        else:
            assert torch.equal(p, q)


def test_the_fast_rule_on_an_l2_ball_is_sgd_with_weight_decay():
    """theta - lr m - lr (norm(m) / r) theta: rate lr, decay norm(m) / r per unit rate."""
    torch.manual_seed(0)
    radius, lr = 5.0, 0.05
    p = nn.Parameter(0.1 * torch.randn(6, 4, dtype=torch.float64))
    twin, m = p.detach().clone(), torch.zeros_like(p)
    optimizer = SFW([{"params": [p], "region": l2_ball(radius)}], lr=lr, momentum=0.9, step_rule=FastGradientScaled())
    for _ in range(20):
        p.grad = 0.3 * torch.randn_like(p)
        m = 0.9 * m + p.grad
        decay = m.norm() / radius
        twin = twin - lr * (m + decay * twin)
        optimizer.step()
        torch.testing.assert_close(p.detach(), twin, atol=1e-13, rtol=0.0)


@pytest.mark.parametrize("profile", [Linear(), Constant(), Cosine()])
@pytest.mark.parametrize("steps", [1, 2, 3, 7, 100, 12345])
def test_the_shares_of_a_profile_sum_to_one_and_peak_where_it_says(profile, steps):
    shares = profile.weight(torch.arange(steps, dtype=torch.float64), steps)
    assert float(shares.sum()) == pytest.approx(1.0, rel=1e-12)
    assert float(shares.max()) == pytest.approx(profile.peak(steps), rel=1e-12)
    assert float(shares.min()) > 0.0
