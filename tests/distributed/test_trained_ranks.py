"""Trainings in several processes follow the weights of one process with the same global batches."""

import copy

import pytest
import scenes
import torch
from process_ranks import on_ranks
from torch import nn
from torch.distributed.fsdp import FSDPModule

STEPS = 50
SLOW = pytest.mark.slow


def require_same_run(kind, world, plan, steps, **options):
    one = scenes.weights_after("one", plan, steps, options)
    several = on_ranks(world, scenes.weights_after, kind, plan, steps, options, timeout=240)
    for rank in several:
        for name, expected in one.items():
            torch.testing.assert_close(
                rank[name], expected, atol=1e-6, rtol=0.0, msg=lambda text, n=name: f"{n}: {text}"
            )
            assert torch.equal(rank[name], several[0][name]), f"{name} is not the same on all ranks"
    start = scenes.net().state_dict()
    assert any((one[name] - start[name]).abs().max() > 1e-3 for name in one)


@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_two_processes_train_as_one_does(kind):
    require_same_run(kind, 2, "joined", 5)


@SLOW
@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
@pytest.mark.parametrize("plan", scenes.PLANS)
def test_fifty_steps_of_two_processes_are_those_of_one(plan, kind):
    require_same_run(kind, 2, plan, STEPS)


@SLOW
@pytest.mark.parametrize("plan", ["joined", "entries", "rank"])
@pytest.mark.parametrize("kind", ["ddp", "fsdp", "hsdp"])
def test_fifty_steps_of_four_processes_are_those_of_one(plan, kind):
    require_same_run(kind, 4, plan, STEPS)


@SLOW
@pytest.mark.parametrize("plan", ["filters", "rank", "free"])
def test_float32_keeps_the_distance_over_fifty_steps(plan):
    require_same_run("fsdp", 2, plan, STEPS, dtype=torch.float32)


def loss_of(made, part):
    x, y = part
    return nn.functional.cross_entropy(made.model(x), y)


def accumulated(kind, plan, clip):
    """Two micro-batches a step, gradients averaged over ranks with the second only; clipped to a small norm."""
    made = scenes.scene(kind, plan)
    norms = []
    for step in range(4):
        x, y = (scenes.share(part) for part in scenes.batch(step))
        made.optimizer.zero_grad()
        for number, part in enumerate(zip(x.chunk(2), y.chunk(2), strict=True)):
            last = number == 1
            if isinstance(made.inner, FSDPModule):
                made.inner.set_requires_gradient_sync(last)
            if kind == "ddp" and not last:
                with made.model.no_sync():
                    (loss_of(made, part) / 2).backward()
            else:
                (loss_of(made, part) / 2).backward()
        norm = nn.utils.clip_grad_norm_(made.inner.parameters(), clip)
        norms.append(float(scenes.whole(norm)))
        made.optimizer.step()
    return made.weights(), norms


@SLOW
@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_accumulated_and_clipped_gradients_are_those_of_one_process(kind):
    expected, norms = copy.deepcopy(accumulated("one", "rank", 0.05))
    assert min(norms) > 0.05
    for weights, found in on_ranks(2, accumulated, kind, "rank", 0.05):
        assert found == pytest.approx(norms, rel=1e-9)
        for name, w in expected.items():
            torch.testing.assert_close(weights[name], w, atol=1e-9, rtol=0.0)


def half_precision(kind):
    """Train under autocast, and under a loss scaler whose first scales overflow."""
    made = scenes.scene(kind, "rank", dtype=torch.float32)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40)
    taken = 0
    for step in range(30):
        x, y = (scenes.share(part) for part in scenes.batch(step, torch.float32))
        made.optimizer.zero_grad()
        with torch.autocast("cpu", torch.float16):
            loss = nn.functional.cross_entropy(made.model(x).float(), y)
        scaler.scale(loss).backward()
        scale = scaler.get_scale()
        scaler.step(made.optimizer)
        scaler.update()
        taken += scaler.get_scale() == scale
    return made.weights(), taken


@SLOW
@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_ranks_skip_the_same_overflows(kind):
    (first, taken), (second, others) = on_ranks(2, half_precision, kind)
    assert taken == others
    assert 0 < taken < 30
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert all(bool(w.isfinite().all()) for w in first.values())
