"""Proximal training in several processes follows the weights of one process."""

import pytest
import scenes
import torch
from process_ranks import on_ranks

from pliant.optim import ProximalSGD
from pliant.regions import Filters, Penalty, Singular, TopK

PENALTIES = [Penalty(TopK(1), Filters(), 0.05), Penalty(TopK(1), Singular(), 0.02)]


def proximal(kind, steps):
    made = scenes.scene(kind, "free")
    weights = dict(made.inner.named_parameters())
    shrunk = [weights.pop("0.weight"), weights.pop("3.weight")]
    groups = [{"params": shrunk, "penalties": PENALTIES}, {"params": list(weights.values())}]
    made.optimizer = ProximalSGD(groups, lr=0.1, prox_every=2)
    scenes.train(made, steps)
    return made.weights(), float(made.optimizer.penalty().detach())


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "world"), [("ddp", 2), ("fsdp", 2), ("fsdp", 4), ("hsdp", 4)])
def test_fifty_proximal_steps_are_those_of_one_process(kind, world):
    expected, penalty = proximal("one", 50)
    for weights, found in on_ranks(world, proximal, kind, 50, timeout=240):
        assert found == pytest.approx(penalty, rel=1e-9)
        for name, w in expected.items():
            torch.testing.assert_close(weights[name], w, atol=1e-6, rtol=0.0)
