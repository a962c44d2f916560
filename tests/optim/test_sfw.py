"""SFW on its own: policies, errors, diagnostics, saved state."""

import copy
import math
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from pliant.optim import (
    SFW,
    DualAveraging,
    GradientScaled,
    NonFinite,
    NonFiniteGradientError,
    ProximalSGD,
    Raw,
    StepRule,
    StochasticRounding,
)
from pliant.regions import Ball, Coupled, Filters, TopK, group_k_support_ball, l2_ball, nuclear_ball
from pliant.structure import Fixed, Plan


def weight(*shape, dtype=torch.float32):
    return nn.Parameter(torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(0)))


def poisoned(policy, number=math.nan):
    a, b = weight(3, 2), weight(4)
    optimizer = SFW(
        [{"params": [("a", a), ("b", b)], "region": l2_ball(2.0)}], lr=0.1, nonfinite=policy, step_rule=Raw()
    )
    a.grad, b.grad = torch.ones(3, 2), torch.ones(4)
    optimizer.step()
    b.grad[1] = number
    return optimizer, a, b


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_raise_names_the_parameter_and_touches_nothing(number):
    optimizer, a, b = poisoned(NonFinite.RAISE, number)
    before = [a.clone(), b.clone(), *(s["momentum_buffer"].clone() for s in optimizer.state.values())]
    with pytest.raises(NonFiniteGradientError, match=r"the gradient of b is not finite; no weight was touched"):
        optimizer.step()
    after = [a, b, *(s["momentum_buffer"] for s in optimizer.state.values())]
    assert all(torch.equal(x, y) for x, y in zip(before, after, strict=True))


def test_skip_leaves_out_the_whole_step_and_goes_on():
    optimizer, a, b = poisoned(NonFinite.SKIP)
    before, state = [a.clone(), b.clone()], copy.deepcopy(optimizer.state_dict()["state"])
    optimizer.step()
    assert torch.equal(a, before[0])
    assert torch.equal(b, before[1])
    for old, new in zip(state.values(), optimizer.state.values(), strict=True):
        assert all(torch.equal(old[key], new[key]) for key in old)
    b.grad = torch.ones(4)
    optimizer.step()
    assert not torch.equal(b, before[1])


def test_ignore_does_not_look():
    optimizer, a, b = poisoned(NonFinite.IGNORE)
    before = a.clone()
    optimizer.step()
    assert not torch.equal(a, before)
    assert bool(b.isnan().any())


def test_one_group_may_ignore_while_another_raises():
    a, b = weight(2), weight(2)
    groups = [
        {"params": [("a", a)], "region": l2_ball(1.0), "nonfinite": NonFinite.IGNORE},
        {"params": [("b", b)], "region": None},
    ]
    optimizer = SFW(groups, lr=0.1)
    b.grad = torch.tensor([1.0, math.nan])
    a.grad = torch.ones(2)
    with pytest.raises(NonFiniteGradientError, match=r"gradient of b is"):
        optimizer.step()


def test_finite_gradients_whose_norm_overflows_are_used():
    p = weight(3)
    optimizer = SFW([{"params": [p], "region": l2_ball(1.0)}], lr=0.1, momentum=0.0)
    p.grad = torch.full((3,), 3e38)
    optimizer.step()
    torch.testing.assert_close(p.detach(), torch.full((3,), -(3**-0.5)))


def test_sparse_gradients_are_refused_by_name():
    embedding = nn.Embedding(5, 3, sparse=True)
    optimizer = SFW([{"params": embedding.named_parameters(), "region": l2_ball(1.0)}], lr=0.1)
    before = embedding.weight.detach().clone()
    embedding(torch.tensor([1])).sum().backward()
    with pytest.raises(ValueError, match=r"the gradient of weight must be dense, found a sparse one; no weight was"):
        optimizer.step()
    assert torch.equal(before, embedding.weight)


@dataclass(frozen=True)
class Unregistered(StepRule):
    def factor(self, now):
        del now
        return 1.0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": -0.1}, r"lr must be at least 0 and finite, found -0.1"),
        ({"lr": math.inf}, r"lr must be at least 0 and finite, found inf"),
        ({"lr": math.nan}, r"lr must be at least 0 and finite, found nan"),
        ({"lr": "0.1"}, r"lr must be at least 0 and finite, found '0.1'"),
        ({"lr": None}, r"lr must be at least 0 and finite, found None"),
        ({"lr": torch.tensor(-1.0)}, r"lr must be at least 0 and finite, found tensor\(-1"),
        ({"lr": torch.ones(2)}, r"lr must be a number or a tensor of one entry, found one of shape \(2,\)"),
        ({"momentum": 1.0}, r"momentum must be in \[0, 1\), found 1.0"),
        ({"momentum": -0.1}, r"momentum must be in \[0, 1\), found -0.1"),
        ({"dampening": 1.5}, r"dampening must be in \[0, 1\), found 1.5"),
        ({"weight_decay": -1e-4}, r"weight_decay must be at least 0 and finite, found -0.0001"),
        ({"step_rule": "raw"}, r"step_rule must be a StepRule such as GradientScaled\(\), found 'raw'"),
        ({"step_rule": Unregistered()}, r"must fit into a state_dict: Unregistered is not registered"),
        ({"nonfinite": "skip"}, r"nonfinite must be one of .*, found 'skip'"),
        ({"precision": "master"}, r"precision must be a Precision such as Master\(\) .*, found 'master'"),
        ({"exact": 1}, r"exact must be True or False, found 1"),
        ({"foreach": "yes"}, r"foreach must be True, False or None, found 'yes'"),
    ],
)
def test_constructor_errors_name_argument_range_and_value(options, message):
    with pytest.raises(ValueError, match=message):
        SFW([{"params": [weight(2)], "region": l2_ball(1.0)}], **{"lr": 0.1, **options})


@pytest.mark.parametrize(
    ("group", "message"),
    [
        ({"params": [weight(2)]}, r"every parameter group needs a 'region'"),
        ({"params": [weight(2)], "region": "l2"}, r"region must be a Region or None, found 'l2'"),
        (
            {"params": [("w", weight(2).half())], "region": None, "precision": StochasticRounding()},
            r"w is torch.float16; StochasticRounding is for bfloat16 only, use precision=Master\(\)",
        ),
        ({"params": [weight(2).to(torch.complex64)], "region": None}, r"parameter 0 is torch.complex64"),
        ({"params": [weight(0, 2)], "region": l2_ball(1.0)}, r"at least one entry, found shape \(0, 2\)"),
        (
            {"params": [weight(2, 2)], "region": Ball(TopK(1), Coupled((Filters(), Filters())), 1.0)},
            r"the region takes 2 tensors together, but the group has 1",
        ),
        (
            {"params": [weight(2, 2), weight(3)], "region": Ball(TopK(1), Coupled((Filters(), Filters())), 1.0)},
            r"equally many channels, found \[2, 3\]",
        ),
    ],
)
def test_group_errors_say_what_is_wrong(group, message):
    group["params"] = [
        p.detach().requires_grad_() if isinstance(p, torch.Tensor) else (p[0], p[1].detach()) for p in group["params"]
    ]
    with pytest.raises(ValueError, match=message):
        SFW([group], lr=0.1)


def test_a_refused_group_leaves_the_optimizer_as_it_was():
    optimizer = SFW([{"params": [weight(2)], "region": l2_ball(1.0)}], lr=0.1)
    with pytest.raises(ValueError, match="region"):
        optimizer.add_param_group({"params": [weight(3)]})
    assert len(optimizer.param_groups) == 1


def optimizers(p):
    groups = [{"params": [p], "region": l2_ball(2.0)}]
    yield SFW(groups, lr=0.1)
    yield SFW([{"params": [p], "region": None}], lr=0.1)
    yield ProximalSGD([p], lr=0.1)
    yield DualAveraging([p], lr=0.1)


@pytest.mark.parametrize("number", range(4))
@pytest.mark.parametrize(("key", "value"), [("lr", math.nan), ("lr", -0.1), ("weight_decay", math.inf)])
def test_numbers_that_a_schedule_sets_out_of_range_are_refused_before_any_weight_is_touched(number, key, value):
    p = weight(3, 2)
    optimizer = list(optimizers(p))[number]
    p.grad = torch.ones(3, 2)
    optimizer.step()
    before, state = p.detach().clone(), copy.deepcopy(optimizer.state_dict()["state"])
    optimizer.param_groups[0][key] = value
    with pytest.raises(ValueError, match=rf"{key} must be at least 0 and finite, found {value}"):
        optimizer.step()
    assert torch.equal(before, p)
    assert str(state) == str(optimizer.state_dict()["state"])


def take_a_step(optimizer):
    for p in (p for group in optimizer.param_groups for p in group["params"]):
        p.grad = torch.ones_like(p)
    optimizer.step()


def test_a_start_outside_of_the_regions_is_told_once_by_name(caplog):
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3))
    optimizer = SFW(Plan.for_filters(model, k=0.5, radius=Fixed(0.1)), lr=0.1)
    assert not caplog.messages
    take_a_step(optimizer)
    take_a_step(optimizer)
    (message,) = caplog.messages
    assert "2 constrained weights are outside their regions (0.weight of norm" in message
    assert "call plan.make_feasible() before the first step" in message


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("preset", [Plan.for_filters, Plan.for_low_rank, Plan.for_unstructured])
def test_a_start_that_was_scaled_into_the_regions_is_told_nothing(preset, dtype, caplog):
    model = nn.Sequential(nn.Conv2d(8, 64, 3), nn.BatchNorm2d(64), nn.Flatten(), nn.Linear(64, 10)).to(dtype)
    plan = preset(model, k=0.3, radius=Fixed(0.1))
    optimizer, unaware = SFW(plan, lr=0.1), SFW(Plan.from_json(model, plan.to_json()), lr=0.1)
    assert plan.make_feasible()
    take_a_step(unaware)
    take_a_step(optimizer)
    assert not caplog.messages


def test_a_first_step_without_any_gradient_of_constrained_weights_is_told_once(caplog):
    old, free = weight(3, 2), weight(2)
    groups = [{"params": [old], "region": l2_ball(9.0)}, {"params": [free], "region": None}]
    optimizer = SFW(groups, lr=0.1)
    free.grad = torch.ones(2)
    optimizer.step()
    optimizer.step()
    assert ["no constrained weight has a gradient" in message for message in caplog.messages] == [True]


def test_a_later_step_without_gradients_and_one_of_free_groups_are_told_nothing(caplog):
    p, free = weight(3, 2), weight(2)
    optimizer = SFW([{"params": [p], "region": l2_ball(9.0)}, {"params": [free], "region": None}], lr=0.1)
    p.grad, free.grad = torch.ones(3, 2), torch.ones(2)
    optimizer.step()
    p.grad = None
    optimizer.step()
    alone = SFW([{"params": [free], "region": None}], lr=0.1)
    alone.step()
    assert not caplog.messages


def test_the_state_of_another_optimizer_is_refused():
    p = weight(2)
    optimizer = SFW([{"params": [p], "region": l2_ball(1.0)}], lr=0.1)
    with pytest.raises(ValueError, match=r"must be that of an SFW; its groups lack nonfinite, region, step_rule"):
        optimizer.load_state_dict(torch.optim.SGD([p], lr=0.1).state_dict())


def test_a_checkpoint_brings_its_region_and_rule_back():
    p, q = weight(3, 2), weight(3, 2)
    saved = SFW([{"params": [p], "region": nuclear_ball(3.0)}], lr=0.1, step_rule=Raw(), nonfinite=NonFinite.SKIP)
    other = SFW([{"params": [q], "region": l2_ball(1.0)}], lr=0.5, step_rule=GradientScaled())
    other.load_state_dict(saved.state_dict())
    group = other.param_groups[0]
    assert group["region"] == nuclear_ball(3.0)
    assert group["step_rule"] == Raw()
    assert group["nonfinite"] is NonFinite.SKIP
    assert isinstance(saved.state_dict()["param_groups"][0]["region"], dict)


def test_diagnostics_are_their_definitions_and_change_nothing():
    torch.manual_seed(0)
    a, b, c = weight(4, 3), weight(4), weight(5)
    region = Ball(TopK(2), Coupled((Filters(), Filters())), 3.0)
    groups = [
        {"params": [("a", a), ("b", b)], "region": region},
        {"params": [("c", c)], "region": group_k_support_ball(1, 9.0)},
        {"params": [("d", weight(2))], "region": None},
    ]
    optimizer = SFW(groups, lr=0.1)
    assert [(seen.step_size, seen.shrinkage, seen.kept) for seen in optimizer.diagnostics()] == [(0.0, 0.0, 1.0)] * 2
    for _ in range(3):
        for p in (a, b, c):
            p.grad = torch.randn_like(p)
        optimizer.step()
    before = copy.deepcopy(optimizer.state_dict()["state"])
    first, second = optimizer.diagnostics()
    assert (first.names, second.names) == (("a", "b"), ("c",))
    vertex = region.lmo([a.grad, b.grad])
    gap = ((a - vertex[0]) * a.grad).sum() + ((b - vertex[1]) * b.grad).sum()
    assert first.gap == pytest.approx(float(gap.detach()), rel=1e-5)
    assert first.value == pytest.approx(float(region.value([a, b]).detach()))
    assert (first.radius, second.radius) == (3.0, 9.0)
    assert optimizer.total_shrinkage() == pytest.approx((first.shrinkage + second.shrinkage) / 2)
    assert optimizer.kept_share() == pytest.approx((first.kept + second.kept) / 2)
    after = optimizer.state_dict()["state"]
    assert all(torch.equal(before[i][key], after[i][key]) for i in before for key in before[i])
    c.grad = None
    momentum = optimizer.state[c]["momentum_buffer"]
    by_momentum = float(((c - group_k_support_ball(1, 9.0).lmo(momentum)) * momentum).sum().detach())
    assert optimizer.diagnostics()[1].gap == pytest.approx(by_momentum, rel=1e-5)


def test_an_optimizer_of_free_groups_has_no_diagnostics():
    optimizer = SFW([{"params": [weight(2)], "region": None}], lr=0.1)
    assert optimizer.diagnostics() == []
    assert (optimizer.total_shrinkage(), optimizer.kept_share()) == (0.0, 1.0)


def test_float64_step_sizes_have_the_precision_of_float64():
    p = weight(5, dtype=torch.float64)
    before, p.grad = p.detach().clone(), torch.ones(5, dtype=torch.float64)
    SFW([{"params": [p], "region": l2_ball(1.0)}], lr=0.1, momentum=0.0, step_rule=Raw()).step()
    expected = 0.9 * before - 0.1 * 5**-0.5
    torch.testing.assert_close(p.detach(), expected, atol=1e-15, rtol=1e-15)


def test_a_plan_is_taken_as_it_is():
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4))
    plan = Plan.for_filters(model, k=0.5)
    ours, theirs = SFW(plan, lr=0.1), SFW(plan.param_groups(), lr=0.1)
    assert ours.state_dict() == theirs.state_dict()
