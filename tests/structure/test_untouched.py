"""Models that write down what they see, in evaluation mode too, are left as they were."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from pliant.compress import (
    Both,
    FilterPruning,
    Layers,
    LowRank,
    Macs,
    UnstructuredPruning,
    backward_elimination,
    closest,
    compress,
    measure_latencies,
    recalibrate_batchnorm,
    sweep,
)
from pliant.metrics import Latency, accuracy, activation_memory, evaluate_loss, footprint
from pliant.testing import check_compressor

FILTERS = FilterPruning(layers=Layers.ALL)
COMPRESSORS = [FILTERS, LowRank(), Both(FILTERS), UnstructuredPruning()]


class Writing(nn.Module):
    """Scales by the largest number so far, counts its calls, and keeps a table as long as was needed so far."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(6, 24), nn.BatchNorm1d(24), nn.ReLU(), nn.Linear(24, 16), nn.ReLU(), nn.Linear(16, 4)
        )
        self.register_buffer("amax", torch.zeros(()))
        self.register_buffer("seen", torch.zeros((), dtype=torch.long))
        self.register_buffer("lengths", torch.empty(0))
        self.register_buffer("table", torch.zeros(1))
        self.longest = 1

    def forward(self, x):
        self.seen += 1
        self.amax.copy_(torch.maximum(self.amax, x.abs().amax()))
        self.lengths.resize_(len(self.lengths) + 1)
        if len(x) > self.longest:
            self.longest, self.table = len(x), torch.zeros(len(x))
        return self.layers(x / self.amax) + self.table[: len(x), None]


def build():
    torch.manual_seed(0)
    return Writing().eval(), torch.randn(4, 6)


BATCHES = [3.0 * torch.randn(16, 6, generator=torch.Generator().manual_seed(seed)) for seed in range(2)]
PAIRS = [(batch, torch.zeros(len(batch), dtype=torch.long)) for batch in BATCHES]
USES = {
    "activations": activation_memory,
    "footprint": lambda model, x: footprint(model, x, latency=Latency(seconds=1e-3)),
    "accuracy": lambda model, _: accuracy(model, PAIRS),
    "loss": lambda model, _: evaluate_loss(model, PAIRS),
    "table": lambda model, x: measure_latencies(model, x, ranks=False, shares=(1.0,), seconds=1e-4),
    "repair": lambda model, x: compress(model, FILTERS, 0.5, example=x, repair=BATCHES, calibrate=BATCHES),
    "reconstruct": lambda model, x: compress(model, LowRank(), 0.5, example=x, reconstruct=BATCHES, latency=True),
    "elimination": lambda model, _: backward_elimination(FILTERS, model, BATCHES),
    "closest": lambda model, x: closest([LowRank(), FILTERS], model, BATCHES, budget=Macs(0.6), example=x),
    "sweep": lambda model, x: sweep(model, LowRank(), [0.5], example=x, evaluate=lambda m: accuracy(m, PAIRS)),
}


@pytest.mark.parametrize("use", USES)
def test_the_model_that_is_given_is_left_as_it_was(use):
    model, x = build()
    before, held = dict(copy.deepcopy(model).named_buffers()), dict(model.named_buffers())
    USES[use](model, x)
    after = dict(model.named_buffers())
    assert model.longest == 1
    assert {name: id(one) for name, one in after.items()} == {name: id(one) for name, one in held.items()}
    assert [name for name in before if not torch.equal(before[name], after[name])] == []


@pytest.mark.parametrize("compressor", COMPRESSORS, ids=lambda one: type(one).__name__)
def test_the_laws_hold(compressor):
    model, x = build()
    check_compressor(compressor, model, x, fractions=(0.5,), train=False)


@pytest.mark.parametrize("repair", ["repair", "calibrate", "reconstruct"])
def test_a_repair_writes_down_running_statistics_and_nothing_else(repair):
    model, x = build()
    small = compress(model, FILTERS, 0.5, example=x, **{repair: BATCHES}).model
    assert (int(small.seen), float(small.amax), len(small.lengths), small.longest) == (0, 0.0, 0, 1)
    statistics = small.layers[1].num_batches_tracked
    assert int(statistics) == (0 if repair == "repair" else len(BATCHES))


def test_outputs_are_compared_from_the_same_state():
    model, x = build()
    model.amax.fill_(1.0)
    assert compress(model, LowRank(), 0.0, example=x).report.relative_difference == 0.0
    assert int(recalibrate_batchnorm(model, BATCHES).seen) == 0


def test_a_failing_call_leaves_no_trace():
    model, x = build()
    with pytest.raises(RuntimeError):
        activation_memory(model, x[:, :3])
    assert (int(model.seen), model.longest, float(model.amax)) == (0, 1, 0.0)


def test_what_did_not_change_is_not_written_to():
    """A graph that was built before can still be walked back."""
    model, x = build()
    factor = torch.ones((), requires_grad=True)
    product = (factor * model.table).sum()
    accuracy(model, [(x, torch.zeros(len(x), dtype=torch.long))])
    product.backward()
    assert factor.grad == 0.0


class Growing(nn.Module):
    """Makes its last layer and its scale when it first runs."""

    def __init__(self):
        super().__init__()
        self.first, self.last, self.scale = nn.Linear(6, 4), None, None

    def forward(self, x):
        x = self.first(x)
        if self.last is None:
            self.last, self.scale = nn.Linear(x.shape[-1], 3), nn.Parameter(torch.ones(3))
        return self.scale * self.last(x)


def test_layers_and_parameters_made_on_the_way_are_forgotten_too():
    model, x = Growing(), torch.randn(4, 6)
    activation_memory(model, x)
    assert list(model.state_dict()) == ["first.weight", "first.bias"]
    assert model.last is model.scale is None
    model(x)
    assert len(model.state_dict()) == 5
