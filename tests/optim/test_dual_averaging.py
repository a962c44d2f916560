"""Dual averaging: laws, a slow twin, and zeros that stay."""

import math

import pytest
import torch
from torch import nn

from pliant.optim import Adaptive, DualAveraging, ProximalSGD
from pliant.regions import Axes, Filters, Penalty, Singular, TopK
from pliant.testing import OPTIMIZER_LAWS, check_optimizer
from pliant.testing.optimizers import finite, motion

LAWS = [law for law in OPTIMIZER_LAWS if law is not finite.nonfinite_gradients_touch_nothing]
LASSO = Penalty(TopK(1), Filters(), 0.05)
NUCLEAR = Penalty(TopK(1), Singular(), 0.05)


ADAPTIVE = {"adaptive": Adaptive(epsilon=0.1, iterations=3)}
STAGES = {"restart_every": 2, "settle_after": 2}


@pytest.mark.parametrize(
    ("penalties", "options"),
    [
        ((), STAGES),
        ((LASSO,), {}),
        pytest.param((NUCLEAR,), STAGES, marks=pytest.mark.slow),
        ((), ADAPTIVE),
        pytest.param((LASSO,), ADAPTIVE | STAGES, marks=pytest.mark.slow),
    ],
    ids=["none", "lasso", "nuclear", "adaptive", "adaptive lasso"],
)
def test_it_obeys_the_laws_of_optimizers(penalties, options):
    def make(model):
        groups = [{"params": [(name, p)], "penalties": penalties} for name, p in model.named_parameters()]
        return DualAveraging(groups, lr=0.05, **options)

    check_optimizer(make, laws=[*LAWS, motion.frozen_weights_do_not_move])


def shrink_rows(w, amount):
    out = torch.zeros_like(w)
    for i, row in enumerate(w):
        norm = math.sqrt(sum(float(x) ** 2 for x in row))
        out[i] = row * (1.0 - amount / norm) if norm > amount else 0.0
    return out


def test_it_is_the_slow_twin():
    torch.manual_seed(0)
    p = nn.Parameter(torch.randn(5, 3, dtype=torch.float64))
    start = p.detach().clone()
    rates = [0.3, 0.2, 0.25, 0.1, 0.05, 0.4]
    grads = [torch.randn_like(start) for _ in rates]
    optimizer = DualAveraging([p], lr=1.0, momentum=0.8, penalties=[Penalty(TopK(1), Filters(), 0.3)])
    for rate, grad in zip(rates, grads, strict=True):
        optimizer.param_groups[0]["lr"] = rate
        p.grad = grad.clone()
        optimizer.step()
    w = start.clone()
    for t in range(1, len(rates) + 1):
        weights = [rates[s] * math.sqrt(s + 1) for s in range(t)]
        mean = sum(weight * grad for weight, grad in zip(weights, grads[:t], strict=True)) / math.sqrt(t)
        z = shrink_rows(start - mean, 0.3 * sum(weights) / math.sqrt(t))
        w = 0.8 * w + 0.2 * z
    torch.testing.assert_close(p.detach(), w, rtol=0, atol=1e-12)


def noisy_regression(make, steps, noise=1.0):
    """Rows 0-2 of the weight matter, rows 3-7 do not; gradients carry noise. Returns the zero patterns per step."""
    torch.manual_seed(1)
    truth = torch.zeros(8, 4)
    truth[:3] = torch.randn(3, 4).sign() * 2.0
    p = nn.Parameter(0.5 * torch.randn(8, 4))
    optimizer, patterns = make(p), []
    for _ in range(steps):
        p.grad = p.detach() - truth + noise * torch.randn(8, 4)
        optimizer.step()
        patterns.append(tuple((p.detach() == 0).all(1).tolist()))
    return p.detach(), patterns


def test_zeros_are_exact_and_stay_under_noise():
    def make(p):
        return DualAveraging([p], lr=0.1, momentum=0.9, penalties=[Penalty(TopK(1), Filters(), 0.5)])

    w, patterns = noisy_regression(make, 800)
    assert patterns[-1] == (False,) * 3 + (True,) * 5
    assert set(patterns[-200:]) == {patterns[-1]}
    assert not w[3:].any()


def test_proximal_sgd_does_not_find_them_under_that_noise():
    def make(p):
        return ProximalSGD([p], lr=0.1, momentum=0.9, penalties=[Penalty(TopK(1), Filters(), 0.5)])

    _, patterns = noisy_regression(make, 800)
    assert (False,) * 3 + (True,) * 5 not in patterns[-200:]


def test_without_noise_it_finds_the_solution_of_the_penalised_problem():
    def make(p):
        return DualAveraging([p], lr=0.2, momentum=0.5, penalties=[Penalty(TopK(1), Filters(), 0.5)], settle_after=1500)

    w, _ = noisy_regression(make, 2500, noise=0.0)
    torch.manual_seed(1)
    truth = torch.zeros(8, 4)
    truth[:3] = torch.randn(3, 4).sign() * 2.0
    torch.testing.assert_close(w, shrink_rows(truth, 0.5), rtol=0, atol=5e-3)


def test_nuclear_norm_leaves_low_rank():
    torch.manual_seed(2)
    truth = 3.0 * torch.outer(torch.randn(6), torch.randn(5))
    p = nn.Parameter(torch.randn(6, 5))
    optimizer = DualAveraging([p], lr=0.1, penalties=[Penalty(TopK(1), Singular(), 1.0)], settle_after=300)
    for _ in range(600):
        p.grad = p.detach() - truth + torch.randn(6, 5)
        optimizer.step()
    values = torch.linalg.svdvals(p.detach())
    assert int((values > 1e-5 * values[0]).sum()) == 1


def test_after_settling_weights_are_the_proximal_point():
    p = nn.Parameter(torch.ones(4, 2))
    optimizer = DualAveraging([p], lr=0.1, momentum=0.9, penalties=[LASSO], settle_after=0)
    for _ in range(120):
        p.grad = torch.tensor([[1.0, 0.0]]).expand(4, 2).clone()
        optimizer.step()
    state = optimizer.state[p]
    root = math.sqrt(state["stage"])
    expected = LASSO.prox(state["anchor"] - state["total"] / root, state["weight"] / root)
    assert torch.equal(p.detach(), expected)


def test_a_stage_starts_from_the_weights_that_it_finds():
    p = nn.Parameter(torch.ones(3, 2))
    optimizer = DualAveraging([p], lr=0.1, momentum=0.0, restart_every=2)
    found = []
    for _ in range(5):
        p.grad = torch.ones(3, 2)
        found.append(p.detach().clone())
        optimizer.step()
    assert torch.equal(optimizer.state[p]["anchor"], found[4])
    assert optimizer.state[p]["stage"] == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": -1.0}, "lr must be at least 0"),
        ({"lr": 0.1, "momentum": 1.0}, r"momentum must be in \[0, 1\)"),
        ({"lr": 0.1, "restart_every": 0}, "restart_every must be a number of steps of at least 1"),
        ({"lr": 0.1, "settle_after": -1}, "settle_after must be a number of steps of at least 0"),
        ({"lr": 0.1, "weight_decay": -1.0}, "weight_decay must be at least 0"),
        ({"lr": 0.1, "adaptive": 1}, "adaptive must be an Adaptive"),
        ({"lr": 0.1, "penalties": [3]}, "penalties must hold penalties of one tensor"),
        ({"lr": 0.1, "penalties": [Penalty(TopK(1), Filters(Axes(groups=4)), 1.0)]}, "cannot be split"),
    ],
)
def test_what_it_cannot_do_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        DualAveraging([nn.Parameter(torch.ones(3, 2))], **options)


def test_16_bits_are_refused():
    with pytest.raises(ValueError, match="need float32 or float64"):
        DualAveraging([nn.Parameter(torch.ones(3, dtype=torch.bfloat16))], lr=0.1)


def test_the_adaptive_step_without_penalty_is_the_slow_twin():
    torch.manual_seed(0)
    p = nn.Parameter(torch.randn(4, 3, dtype=torch.float64))
    start, w = p.detach().clone(), p.detach().clone()
    optimizer = DualAveraging([p], lr=0.2, momentum=0.7, weight_decay=0.1, adaptive=Adaptive(epsilon=0.01))
    total, squares = torch.zeros_like(w), torch.zeros_like(w)
    for t in range(1, 6):
        grad = torch.randn_like(w)
        p.grad = grad.clone()
        optimizer.step()
        total += 0.2 * math.sqrt(t) * (grad + 0.1 * w)
        squares += 0.2 * math.sqrt(t) * (grad + 0.1 * w) ** 2
        w = 0.7 * w + 0.3 * (start - total / (squares ** (1 / 3) + 0.01))
    torch.testing.assert_close(p.detach(), w, rtol=0, atol=1e-12)


def test_the_adaptive_proximal_problem_is_solved():
    """-(G + D (z - W_0)) is a subgradient of the penalty: z / |z| times its weight, at most the weight where z is 0."""
    torch.manual_seed(0)
    state = {"anchor": torch.randn(6, 3).double(), "total": torch.randn(6, 3).double(), "weight": 4.0}
    state["squares"] = torch.rand(6, 3).double()
    found = Adaptive(epsilon=0.3, iterations=2000).solve(state, state["anchor"], [Penalty(TopK(1), Filters(), 0.7)])
    metric = state["squares"] ** (1 / 3) + 0.3
    slope = -(state["total"] + metric * (found - state["anchor"])) / (4.0 * 0.7)
    zero = (found == 0).all(1)
    assert 0 < int(zero.sum()) < 6
    torch.testing.assert_close(slope[~zero], found[~zero] / found[~zero].norm(dim=1, keepdim=True), rtol=0, atol=1e-9)
    assert float(slope[zero].norm(dim=1).max()) <= 1.0


def test_adaptive_zeros_are_exact_and_stay():
    def make(p):
        penalties = [Penalty(TopK(1), Filters(), 0.5)]
        return DualAveraging([p], lr=0.1, penalties=penalties, adaptive=Adaptive(), settle_after=500)

    w, patterns = noisy_regression(make, 800)
    assert patterns[-1] == (False,) * 3 + (True,) * 5
    assert set(patterns[-100:]) == {patterns[-1]}
    assert not w[3:].any()


@pytest.mark.parametrize(("options", "message"), [({"epsilon": 0.0}, "epsilon"), ({"iterations": 0}, "iterations")])
def test_a_metric_out_of_range_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Adaptive(**options)
