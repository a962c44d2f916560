"""A step at a rate of 0 does not count: it uses up nothing of what a run was promised."""

import pytest
import torch
from torch import nn
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict
from torch.nn.functional import cross_entropy
from torch.optim.lr_scheduler import LambdaLR

from pliant.methods import GroupLasso, NuclearNorm, penalised, penalised_groups
from pliant.optim import SFW, Adaptive, DualAveraging, NonFinite, ProximalSGD, Shrinkage
from pliant.structure import Plan


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 3))


def data():
    draws = torch.Generator().manual_seed(1)
    return torch.randn(32, 6, generator=draws), torch.randint(3, (32,), generator=draws)


def sfw(model, lr=1.0, **options):
    plan = Plan.for_filters(model, k=0.3)
    plan.make_feasible()
    return SFW(plan, lr=lr, step_rule=Shrinkage(3.0, steps=10), **options)


def groups(model):
    return penalised_groups(model, penalised(model, [GroupLasso(0.05), NuclearNorm(0.01)]))


OPTIMIZERS = {
    "sfw": sfw,
    "sfw, lr a tensor": lambda model: sfw(model, torch.tensor(1.0)),
    "sfw that skips": lambda model: sfw(model, nonfinite=NonFinite.SKIP),
    "sfw that skips, lr a tensor": lambda model: sfw(model, torch.tensor(1.0), nonfinite=NonFinite.SKIP),
    "proximal": lambda model: ProximalSGD(groups(model), lr=0.1, prox_every=3),
    "dual averaging": lambda model: DualAveraging(groups(model), lr=0.1, restart_every=4, settle_after=6),
    "dual averaging, adaptive": lambda model: DualAveraging(groups(model), lr=0.1, adaptive=Adaptive(), settle_after=3),
}


def take(model, optimizer, steps):
    x, y = data()
    for _ in range(steps):
        optimizer.zero_grad()
        cross_entropy(model(x), y).backward()
        optimizer.step()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_asking_torch_for_the_state_before_the_first_step_changes_nothing(name):
    """Torch then takes a step at a rate of 0, with zero gradients, so that there is a state."""
    runs = []
    for early in (False, True):
        model = net()
        optimizer = OPTIMIZERS[name](model)
        if early:
            assert get_optimizer_state_dict(model, optimizer)["state"]
        take(model, optimizer, 10)
        runs.append((model.state_dict(), optimizer))
    (plain, _), (asked, optimizer) = runs
    assert all(torch.equal(plain[key], asked[key]) for key in plain)
    if isinstance(optimizer, SFW):
        assert optimizer.total_shrinkage() == pytest.approx(3.0, rel=1e-5)


@pytest.mark.parametrize("rate", [0.0, torch.tensor(0.0)], ids=["a number", "a tensor"])
def test_a_shrinkage_is_spread_over_the_steps_that_move(rate):
    model = net()
    optimizer = sfw(model)
    for steps, lr in ((2, rate), (4, 1.0), (3, rate), (6, 1.0)):
        for group in optimizer.param_groups:
            group["lr"] = lr
        take(model, optimizer, steps)
    assert optimizer.total_shrinkage() == pytest.approx(3.0, rel=1e-5)
    assert {float(state["steps"]) for state in optimizer.state.values() if "steps" in state} == {10.0}


def test_groups_that_rest_do_not_count_beside_others_that_move():
    model = net()
    optimizer = sfw(model)
    resting, moving = optimizer.param_groups[:2]
    resting["lr"] = 0.0
    take(model, optimizer, 4)
    counts = [float(optimizer.state[group["params"][0]]["steps"]) for group in (resting, moving)]
    assert counts == [0.0, 4.0]


def test_a_warm_up_from_zero_takes_the_first_share_in_its_second_step():
    model = net()
    optimizer = sfw(model)
    constrained = [group for group in optimizer.param_groups if group["region"] is not None]
    scheduler = LambdaLR(optimizer, lambda step: min(1.0, step / 2))
    sizes = []
    for _ in range(3):
        take(model, optimizer, 1)
        scheduler.step()
        sizes.append(float(optimizer.state[constrained[0]["params"][0]]["step_size"]))
    shares = [3.0 * 2.0 * (10 - index) / 110 for index in range(2)]
    assert sizes == pytest.approx([0.0, 0.5 * shares[0], shares[1]], rel=1e-5)
