"""The total shrinkage of a run is the one asked for."""

import math

import pytest
import torch
from torch import nn

from pliant.optim import SFW, Constant, Cosine, Linear, NonFinite, Shrinkage
from pliant.regions import Singular, TopK, group_k_support_ball, l1_ball, l2_ball, nuclear_ball, spectral_k_support_ball
from pliant.structure import Constraint, Fixed, Plan, Rule
from pliant.testing import HostReads

PROFILES = [Linear(), Constant(), Cosine()]


def run(p, rule, steps, region=None, lr=1.0):
    optimizer = SFW([{"params": [p], "region": region or l2_ball(5.0)}], lr=lr, step_rule=rule)
    for _ in range(steps):
        p.grad = torch.randn_like(p)
        optimizer.step()
    return optimizer


@pytest.mark.parametrize("profile", PROFILES, ids=lambda p: type(p).__name__)
@pytest.mark.parametrize(("total", "steps"), [(0.5, 1), (1.0, 3), (3.0, 50), (3.0, 400), (8.0, 50)])
def test_step_sizes_sum_to_the_total_and_the_account_is_kept(profile, total, steps):
    torch.manual_seed(0)
    rule = Shrinkage(total, steps, profile)
    optimizer = run(nn.Parameter(torch.randn(3, 2)), rule, steps)
    (seen,) = optimizer.diagnostics()
    shares = profile.weight(torch.arange(steps, dtype=torch.float64), steps) * total
    assert seen.shrinkage == pytest.approx(total, rel=1e-5)
    assert seen.kept == pytest.approx(float((1 - shares).prod()), rel=1e-4, abs=1e-7)
    assert seen.step_size == pytest.approx(float(shares[-1]), rel=1e-5, abs=1e-7)
    assert optimizer.total_shrinkage() == pytest.approx(seen.shrinkage)
    assert optimizer.kept_share() == pytest.approx(seen.kept)
    assert seen.value <= seen.radius * (1 + 1e-6)


def test_the_rate_multiplies_the_total():
    optimizer = run(nn.Parameter(torch.randn(3, 2)), Shrinkage(2.0, 10), 10, lr=0.25)
    assert optimizer.total_shrinkage() == pytest.approx(0.5, rel=1e-5)


@pytest.mark.parametrize("profile", PROFILES, ids=lambda p: type(p).__name__)
def test_after_the_last_step_nothing_moves(profile):
    p = nn.Parameter(torch.randn(3, 2))
    optimizer = run(p, Shrinkage(1.0, 5, profile), 5)
    before = p.detach().clone()
    for _ in range(3):
        p.grad = torch.randn_like(p)
        optimizer.step()
    assert torch.equal(before, p)
    assert optimizer.total_shrinkage() == pytest.approx(1.0, rel=1e-5)
    assert optimizer.diagnostics()[0].step_size == 0.0


def step(optimizer, p, steps):
    for _ in range(steps):
        p.grad = torch.randn_like(p)
        optimizer.step()


OVER = "stay as they are from here on"


def test_the_first_step_beyond_the_run_is_told_once(caplog):
    p = nn.Parameter(torch.randn(3, 2))
    optimizer = run(p, Shrinkage(1.0, 5), 5)
    assert not caplog.messages
    step(optimizer, p, 3)
    assert [OVER in message for message in caplog.messages] == [True]
    assert "steps=5" in caplog.messages[0]
    assert "parameter 0" in caplog.messages[0]


def test_a_resumed_run_is_told_too_and_steps_that_were_skipped_do_not_count(caplog):
    p = nn.Parameter(torch.randn(3, 2))
    saved = run(p, Shrinkage(1.0, 5), 4).state_dict()
    optimizer = SFW(
        [{"params": [p], "region": l2_ball(5.0)}], lr=1.0, step_rule=Shrinkage(1.0, 5), nonfinite=NonFinite.SKIP
    )
    optimizer.load_state_dict(saved)
    optimizer.param_groups[0]["nonfinite"] = NonFinite.SKIP
    for _ in range(4):
        p.grad = torch.full_like(p, math.nan)
        optimizer.step()
    step(optimizer, p, 1)
    assert not caplog.messages
    step(optimizer, p, 1)
    assert OVER in caplog.text


def test_a_run_goes_on_under_a_longer_rule(caplog):
    p = nn.Parameter(torch.randn(3, 2))
    saved = run(p, Shrinkage(1.0, 5, Constant()), 5).state_dict()
    optimizer = SFW([{"params": [p], "region": l2_ball(5.0)}], lr=1.0, step_rule=Shrinkage(1.0, 5))
    optimizer.load_state_dict(saved)
    for group in optimizer.param_groups:
        group["step_rule"] = Shrinkage(2.0, 10, Constant())
    step(optimizer, p, 5)
    assert optimizer.total_shrinkage() == pytest.approx(2.0, rel=1e-5)
    assert not caplog.messages


def test_counting_the_steps_never_waits_for_the_device_before_the_end():
    p = nn.Parameter(torch.randn(3, 2))
    optimizer = SFW(
        [{"params": [p], "region": l2_ball(5.0)}], lr=1.0, step_rule=Shrinkage(1.0, 5), nonfinite=NonFinite.IGNORE
    )
    with HostReads() as seen:
        step(optimizer, p, 5)
    assert not seen.reads


@pytest.mark.parametrize(
    ("profile", "shortest"), [(Linear(), 5), (Constant(), 3), (Cosine(), 6)], ids=lambda x: str(x)[:8]
)
def test_runs_that_are_too_short_are_refused(profile, shortest):
    Shrinkage(3.0, shortest, profile)
    with pytest.raises(ValueError, match=rf"total=3.0 over steps={shortest - 1} asks for a step size of .*, above 1"):
        Shrinkage(3.0, shortest - 1, profile)


@pytest.mark.parametrize("total", [0.0, -1.0, math.inf, math.nan])
def test_impossible_totals_are_refused(total):
    with pytest.raises(ValueError, match=r"total must be positive and finite, found"):
        Shrinkage(total, 100)


@pytest.mark.parametrize("steps", [0, -3])
def test_impossible_lengths_are_refused(steps):
    with pytest.raises(ValueError, match=rf"steps must be at least 1, found {steps}"):
        Shrinkage(3.0, steps)


def test_points_count_their_own_steps():
    early, late = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    optimizer = SFW([{"params": [early, late], "region": l2_ball(5.0)}], lr=1.0, step_rule=Shrinkage(1.0, 4))
    for step in range(8):
        early.grad = torch.ones(2)
        late.grad = torch.ones(2) if step >= 4 else None
        optimizer.step()
    assert [seen.shrinkage for seen in optimizer.diagnostics()] == pytest.approx([1.0, 1.0])


@pytest.mark.parametrize(
    "after", [group_k_support_ball(1, 2.0), l1_ball(2.0), nuclear_ball(1.0), spectral_k_support_ball(1, 0.5)]
)
def test_a_new_region_keeps_its_points_after_scaling_in(after):
    torch.manual_seed(0)
    layer = nn.Linear(4, 3)
    plan = Plan.from_rules(layer, [Rule(Constraint(TopK(3), Singular, Fixed(5.0)))])
    optimizer = SFW(plan.param_groups(), lr=0.5)
    for region in (None, after):
        for group in optimizer.param_groups if region is not None else ():
            group["region"] = region
            for p in group["params"]:
                with torch.no_grad():
                    p.copy_(region.scale_into(p))
        for _ in range(5):
            for p in layer.parameters():
                p.grad = torch.randn_like(p)
            optimizer.step()
            assert all(seen.value <= seen.radius * (1 + 1e-5) for seen in optimizer.diagnostics())
    assert {seen.radius for seen in optimizer.diagnostics()} == {after.radius}


def test_a_new_plan_takes_over_mid_run():
    torch.manual_seed(0)
    layer = nn.Linear(6, 5)
    optimizer = SFW(Plan.from_rules(layer, [Rule(Constraint(TopK(5), Singular, Fixed(5.0)))]).param_groups(), lr=0.5)
    for k in (5, 2, 1):
        plan = Plan.from_rules(layer, [Rule(Constraint(TopK(k), Singular, Fixed(1.0)))])
        plan.make_feasible()
        for group, new in zip(optimizer.param_groups, plan.param_groups(), strict=True):
            group["region"] = new["region"]
        for _ in range(4):
            for p in layer.parameters():
                p.grad = torch.randn_like(p)
            optimizer.step()
            assert all(seen.value <= 1.0 + 1e-5 for seen in optimizer.diagnostics())
