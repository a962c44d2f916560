"""The state of sharded training is that of one process, whoever saves and whoever loads."""

import copy

import pytest
import scenes
import torch
import torch.distributed.checkpoint as dcp
from process_ranks import on_ranks
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)

from pliant.optim import Master, StochasticRounding
from pliant.sharding import is_sharded

FULL = StateDictOptions(full_state_dict=True)


def full_state(kind, plan, steps, options):
    made = scenes.train(scenes.scene(kind, plan, **options), steps)
    state = get_optimizer_state_dict(made.inner, made.optimizer, options=FULL)
    buffers = [made.optimizer.state[p]["momentum_buffer"] for p in made.inner.parameters()]
    spread = all(map(is_sharded, buffers))
    parts = sum((b.to_local() if is_sharded(b) else b).numel() for b in buffers)
    return state, spread, parts


@pytest.mark.parametrize("plan", ["rank", pytest.param("entries", marks=pytest.mark.slow)])
def test_the_full_state_is_that_of_one_process(plan):
    expected, _, everything = full_state("one", plan, 4, {})
    (state, spread, parts), (_, _, others) = on_ranks(2, full_state, "fsdp", plan, 4, {})
    assert spread
    assert parts + others == everything
    assert state["param_groups"] == expected["param_groups"]
    assert state["state"].keys() == expected["state"].keys()
    for name, one in expected["state"].items():
        assert state["state"][name].keys() == one.keys(), name
        torch.testing.assert_close(state["state"][name], one, atol=1e-9, rtol=1e-6)


def saved_and_resumed(folder, plan, options):
    """Save after 3 steps with torch.distributed.checkpoint, load into a fresh training, go on; and without a break."""
    through = scenes.train(scenes.scene("fsdp", plan, **options), 3)
    state = {
        "model": get_model_state_dict(through.inner),
        "optimizer": get_optimizer_state_dict(through.inner, through.optimizer),
    }
    dcp.save(state, checkpoint_id=folder)
    scenes.train(through, 3, start=3)
    again = scenes.scene("fsdp", plan, **options)
    fresh = {
        "model": get_model_state_dict(again.inner),
        "optimizer": get_optimizer_state_dict(again.inner, again.optimizer),
    }
    dcp.load(fresh, checkpoint_id=folder)
    set_model_state_dict(again.inner, fresh["model"])
    set_optimizer_state_dict(again.inner, again.optimizer, fresh["optimizer"])
    scenes.train(again, 3, start=3)
    return through.weights(), again.weights()


@pytest.mark.slow
@pytest.mark.parametrize("plan", ["rank", "joined", "free"])
def test_a_distributed_checkpoint_resumes_to_the_bit(plan, tmp_path):
    for through, again in on_ranks(2, saved_and_resumed, str(tmp_path / "checkpoint"), plan, {}):
        assert all(torch.equal(through[name], w) for name, w in again.items())


def resumed_from_full(state, weights, plan):
    made = scenes.scene("fsdp", plan)
    set_model_state_dict(made.inner, weights, options=FULL)
    set_optimizer_state_dict(made.inner, made.optimizer, state, options=FULL)
    return scenes.train(made, 3, start=3).weights()


@pytest.mark.slow
@pytest.mark.parametrize("plan", ["rank", "free"])
def test_the_state_of_one_process_goes_on_in_several(plan):
    one = scenes.train(scenes.scene("one", plan), 3)
    state = copy.deepcopy(get_optimizer_state_dict(one.inner, one.optimizer, options=FULL))
    weights = copy.deepcopy(one.inner.state_dict())
    expected = scenes.train(one, 3, start=3).weights()
    for found in on_ranks(2, resumed_from_full, state, weights, plan):
        for name, w in expected.items():
            torch.testing.assert_close(found[name], w, atol=1e-9, rtol=0.0)


@pytest.mark.slow
@pytest.mark.parametrize("precision", [Master(), StochasticRounding()], ids=str)
def test_sharded_weights_of_16_bits_take_small_steps(precision):
    options = {"dtype": torch.bfloat16, "precision": precision}
    one = scenes.weights_after("one", "rank", 3, options)
    for found in on_ranks(2, scenes.weights_after, "fsdp", "rank", 3, options):
        for name, w in one.items():  # a few roundings of 2^-9 apart: the losses are computed in 16 bits as well
            torch.testing.assert_close(found[name].float(), w.float(), atol=2e-2, rtol=5e-2)
