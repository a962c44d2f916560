"""What loops do around a step: 16 bits, loss scaling, accumulation, clipping, averaging, memory formats, compiling."""

import copy

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from pliant.optim import SFW, DiameterScaled, GradientScaled
from pliant.regions import TopK
from pliant.structure import Constraint, Plan, Rule

PLANS = {
    "filters": lambda model: Plan.for_filters(model, k=0.3),
    "rank": lambda model: Plan.for_low_rank(model, k=0.3),
    "entries": lambda model: Plan.for_unstructured(model, k=0.3),
}
each_plan = pytest.mark.parametrize("plan", PLANS)


def net(memory_format=torch.contiguous_format):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 6, 3), nn.Flatten(), nn.Linear(96, 4)
    )
    return model.to(memory_format=memory_format)


def data(count=32):
    draws = torch.Generator().manual_seed(1)
    y = torch.randint(4, (count,), generator=draws)
    return torch.randn(count, 3, 6, 6, generator=draws) + y[:, None, None, None], y


def start(plan, model=None, **options):
    model = net() if model is None else model
    made = PLANS[plan](model)
    made.make_feasible()
    return model, SFW(made, **({"lr": 0.1} | options)), made


def loss_of(model, x, y):
    return nn.functional.cross_entropy(model(x).float(), y)


def train(model, optimizer, steps=10, called=None, x=None):
    images, y = data()
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = loss_of(called or model, images if x is None else x, y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def require_feasible(made):
    for group in made:
        if group.target is not None and group.options()["region"] is not None:
            point = [slot.parameter.detach() for slot in group.slots]
            assert group.target.contains(point[0] if len(point) == 1 else point, tol=1e-5), group.names


def require_close(a, b, **closeness):
    for (name, p), q in zip(a.named_parameters(), b.parameters(), strict=True):
        torch.testing.assert_close(p, q, **closeness, msg=lambda text, n=name: f"{n}: {text}")


@each_plan
def test_bf16_autocast_trains_and_touches_no_step(plan):
    model, optimizer, made = start(plan)
    other = copy.deepcopy(model)
    twin = SFW(Plan.from_json(other, made.to_json()), lr=0.1)
    x, y = data()
    losses = []
    for _ in range(15):
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            loss = loss_of(model, x, y)
        loss.backward()
        losses.append(loss.item())
        for p, q in zip(model.parameters(), other.parameters(), strict=True):
            q.grad = p.grad.clone()
        twin.step()
        with torch.autocast("cpu", torch.bfloat16):  # a step inside the context is a step outside of it
            optimizer.step()
    require_close(model, other, atol=0.0, rtol=0.0)
    assert losses[-1] < 0.5 * losses[0]
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    require_feasible(made)


@each_plan
def test_the_scaler_of_fp16_skips_overflows_and_changes_no_other_step(plan):
    model, optimizer, made = start(plan)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**24, growth_interval=1000)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.9)
    x, y = data()
    taken = 0
    for _ in range(24):
        before, scale = copy.deepcopy(model.state_dict()), scaler.get_scale()
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.float16):
            loss = loss_of(model, x, y)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        moved = any(not torch.equal(before[name], p) for name, p in model.named_parameters())
        assert moved == (scaler.get_scale() == scale)
        if moved:
            taken += 1
            schedule.step()
    assert 0 < taken < 24
    accounts = [s["steps"] for s in optimizer.state.values() if "steps" in s]
    assert accounts
    assert all(float(steps) == taken for steps in accounts)
    require_feasible(made)


@each_plan
def test_accumulated_gradients_make_the_step_of_the_whole_batch(plan):
    model, optimizer, _ = start(plan)
    model.eval()  # batch statistics are those of a micro-batch, gradients are not
    whole = copy.deepcopy(model)
    other = SFW(Plan.from_json(whole, PLANS[plan](model).to_json()), lr=0.1)
    x, y = data()
    for _ in range(8):
        optimizer.zero_grad()
        for part in range(4):
            (loss_of(model, x[part::4], y[part::4]) / 4).backward()
        optimizer.step()
    train(whole, other, 8)
    require_close(model, whole, atol=2e-5, rtol=0.0)


def clipped_step(rule, limit):
    """Return the gradient's norm before clipping, and the length of the step after it."""
    model = net()
    plan = Plan.from_rules(model, [Rule(Constraint(TopK(0.3)))])
    plan.make_feasible()
    optimizer = SFW(plan, lr=1.0, momentum=0.0, step_rule=rule)
    before = copy.deepcopy(model.state_dict())
    x, y = data()
    (100 * loss_of(model, x, y)).backward()
    total = float(nn.utils.clip_grad_norm_(model.parameters(), limit))
    optimizer.step()
    require_feasible(plan)
    moves = [p.detach() - before[name] for name, p in model.named_parameters()]
    return total, float(torch.stack([move.norm() for move in moves]).norm())


def test_a_step_that_follows_the_gradient_is_as_long_as_the_clipped_one():
    for limit in (0.01, 0.1):
        total, length = clipped_step(GradientScaled(), limit)
        assert total > 1.0
        assert length == pytest.approx(limit, rel=1e-3)


def test_clipping_changes_no_step_that_only_follows_the_direction():
    assert clipped_step(DiameterScaled(), 0.01)[1] == pytest.approx(clipped_step(DiameterScaled(), 0.1)[1], rel=1e-3)


@each_plan
def test_averages_of_feasible_weights_are_feasible(plan):
    model, optimizer, made = start(plan)
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.8), use_buffers=True)
    x, y = data()
    for _ in range(10):
        optimizer.zero_grad()
        loss_of(model, x, y).backward()
        optimizer.step()
        average.update_parameters(model)
    assert any(not torch.equal(p, q) for p, q in zip(model.parameters(), average.module.parameters(), strict=True))
    require_feasible(Plan.from_json(average.module, made.to_json()))


@each_plan
def test_channels_last_models_train_as_others_do(plan):
    model, optimizer, _ = start(plan)
    train(model, optimizer, 6)
    last, other, _ = start(plan, net(torch.channels_last))
    train(last, other, 6, x=data()[0].contiguous(memory_format=torch.channels_last))
    require_close(model, last, atol=1e-5, rtol=0.0)
    assert last[3].weight.is_contiguous(memory_format=torch.channels_last)
    assert other.state[last[3].weight]["momentum_buffer"].is_contiguous(memory_format=torch.channels_last)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # of the compiler about itself
@each_plan
def test_compiled_models_train_as_others_do(plan):
    model, optimizer, _ = start(plan)
    train(model, optimizer, 6)
    other, twin, _ = start(plan)
    train(other, twin, 6, called=torch.compile(other, backend="aot_eager"))
    require_close(model, other, atol=1e-5, rtol=0.0)
