"""What goes wrong on one rank is known on all of them, and nobody waits for ever."""

import math
import time

import pytest
import scenes
import torch
import torch.distributed as dist
from process_ranks import message_of, on_ranks
from torch.distributed.device_mesh import init_device_mesh

from pliant.optim import SFW, NonFinite, NonFiniteGradientError, RankMismatchError, check_ranks
from pliant.regions import l2_ball
from pliant.sharding import is_sharded, local, whole
from pliant.structure import Plan


def two_plans(kind):
    """Let rank 1 have another k than rank 0."""
    made = scenes.scene(kind, "filters")
    k = 0.3 if dist.get_rank() == 0 else 0.6
    optimizer = SFW(Plan.for_filters(made.inner, k=k), lr=0.1)
    other = scenes.Scene(made.model, made.inner, optimizer)
    before = other.weights()
    check = (lambda: check_ranks(optimizer)) if kind == "ddp" else (lambda: scenes.train(other, 1))
    text = message_of(RankMismatchError, check)
    return text, all(torch.equal(before[n], w) for n, w in other.weights().items())


@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_another_plan_on_one_rank_raises_on_all(kind):
    texts = on_ranks(2, two_plans, kind)
    for text, untouched in texts:
        assert text is not None
        assert "rank 1" in text
        assert "0.weight" in text
        assert untouched
    assert texts[0] == texts[1]


def other_rates():
    made = scenes.scene("ddp", "free")
    check_ranks(made.optimizer, weights=True)
    made.optimizer.param_groups[0]["lr"] = 0.1 + 0.1 * dist.get_rank()
    rates = message_of(RankMismatchError, lambda: check_ranks(made.optimizer))
    made.optimizer.param_groups[0]["lr"] = 0.1
    with torch.no_grad():
        made.inner[0].bias[0] += 1e-7 * dist.get_rank()
    blind = message_of(RankMismatchError, lambda: check_ranks(made.optimizer))
    drift = message_of(RankMismatchError, lambda: check_ranks(made.optimizer, weights=True))
    return rates, blind, drift


@pytest.mark.slow
def test_rates_and_drifted_weights_are_found():
    for rates, blind, drift in on_ranks(3, other_rates):
        assert "rank 1" in rates
        assert "rank 2" in rates
        assert blind is None
        assert "0.bias" in drift


def poisoned(policy):
    """Put NaN into one entry that one rank alone holds."""
    made = scenes.train(scenes.scene("fsdp", "rank", nonfinite=policy), 2)
    before, momenta, shrinkage = made.weights(), made.momenta(), made.optimizer.total_shrinkage()
    x, y = (scenes.share(part) for part in scenes.batch(2))
    made.optimizer.zero_grad()
    torch.nn.functional.cross_entropy(made.model(x), y).backward()
    if dist.get_rank() == 1:
        local(made.inner[0].weight.grad)[0, 0, 0, 0] = math.nan
    text = message_of(NonFiniteGradientError, made.optimizer.step)
    same = all(torch.equal(before[n], w) for n, w in made.weights().items())
    same &= all(torch.equal(m, now) for m, now in zip(momenta, made.momenta(), strict=True))
    uncounted = shrinkage == made.optimizer.total_shrinkage()
    scenes.train(made, 2, start=3)
    fine = all(bool(w.isfinite().all()) for w in made.weights().values())
    return text, same, uncounted, fine


@pytest.mark.parametrize("policy", [NonFinite.RAISE, pytest.param(NonFinite.SKIP, marks=pytest.mark.slow)])
def test_nan_in_the_shard_of_one_rank_stops_the_step_of_all(policy):
    for text, same, uncounted, fine in on_ranks(2, poisoned, policy):
        assert (text is not None) == (policy is NonFinite.RAISE)
        assert text is None or "0.weight" in text
        assert same
        assert uncounted
        assert fine


def poisoned_ddp(synchronise):
    """Let one rank's loss be NaN; without synchronisation the gradients stay that rank's own."""
    made = scenes.scene("ddp", "filters")
    x, y = (scenes.share(part) for part in scenes.batch(0))
    if dist.get_rank() == 1:
        x = x * math.nan
    if synchronise:
        torch.nn.functional.cross_entropy(made.model(x), y).backward()
    else:
        with made.model.no_sync():
            torch.nn.functional.cross_entropy(made.model(x), y).backward()
    return message_of(NonFiniteGradientError, made.optimizer.step)


@pytest.mark.slow
def test_nan_on_one_replica_is_on_all_once_gradients_are_averaged():
    assert all(text is not None for text in on_ranks(2, poisoned_ddp, True))
    alone = on_ranks(2, poisoned_ddp, False)
    assert alone[0] is None
    assert alone[1] is not None


def dies_or_waits():
    if dist.get_rank() == 1:
        raise SystemExit(3)
    mesh = init_device_mesh("cpu", (2,))
    p = scenes.placed(torch.ones(4, 4), [scenes.SHARD0], (2,))
    p.grad = p.detach().clone()
    SFW([{"params": [p], "region": l2_ball(1.0)}], lr=0.1).step()
    return mesh is not None and is_sharded(p) and whole(p)


@pytest.mark.slow
def test_a_lost_rank_leaves_nobody_waiting():
    started = time.monotonic()
    with pytest.raises((AssertionError, RuntimeError), match="rank"):
        on_ranks(2, dies_or_waits, timeout=60)
    assert time.monotonic() - started < 120
