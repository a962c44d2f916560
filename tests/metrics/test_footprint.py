from __future__ import annotations

import copy
import gc

import pytest
import torch
from torch import nn

from pliant.metrics import Latency, activation_memory, count_macs, footprint, latency, size
from pliant.models import create

MODELS = ["lenet-300-100", "lenet-5", "cnn-4", "resnet-20", "vit"]


class _Odd(nn.Module):
    """A layer used twice, tied weights, work outside of modules, a parameter of the model itself, attention."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(8))
        self.twice = nn.Linear(8, 8)
        self.tied = nn.Linear(8, 8, bias=False)
        self.tied.weight = self.twice.weight
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.register_buffer("shift", torch.zeros(8))

    def forward(self, x):
        x = self.twice(self.twice(x) * self.scale) + self.shift
        return self.attention(x, x, x)[0] @ self.tied(x).mT


def _models():
    torch.manual_seed(0)
    yield from ((create(n, num_classes=10, in_channels=1, image_size=16), torch.randn(2, 1, 16, 16)) for n in MODELS)
    yield _Odd(), torch.randn(3, 5, 8)


@pytest.mark.parametrize(("model", "example"), list(_models()), ids=[*MODELS, "odd"])
def test_the_layers_add_up_to_the_totals_and_these_to_what_is_counted_elsewhere(model, example):
    before, modes = copy.deepcopy(model.state_dict()), [module.training for module in model.modules()]
    found, whole = footprint(model, example), size(model, example)
    total = sum(found.layers.values(), start=type(next(iter(found.layers.values())))())
    assert (total.parameters, total.macs, total.bytes, total.activations) == (
        found.parameters,
        found.macs,
        found.bytes,
        found.activations,
    )
    assert (found.parameters, found.nonzero, found.macs, found.bytes) == (
        whole.parameters,
        whole.nonzero,
        whole.macs,
        whole.bytes,
    )
    assert set(found.layers) == {name for name, _ in model.named_modules()}
    assert 0 < found.peak_activations <= found.activations
    assert found.latency is None
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert modes == [module.training for module in model.modules()]
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_what_a_layer_spends_is_booked_on_it_and_shared_parameters_once():
    layers = footprint(_Odd(), torch.randn(3, 5, 8)).layers
    assert layers["twice"].parameters == 72
    assert layers["twice"].macs == 2 * 3 * 5 * 64
    assert layers["tied"].parameters == 0
    assert layers["tied"].macs == 3 * 5 * 64
    assert layers[""].parameters == 8
    assert layers[""].macs == 3 * 5 * 5 * 8
    assert layers[""].bytes == 4 * 16
    assert layers["attention"].macs == 3 * (4 * 5 * 64 + 2 * 5 * 5 * 8)


def test_activations_are_the_outputs_of_operators_without_views_and_writes_in_place():
    model = nn.Sequential(
        nn.Linear(10, 4), nn.ReLU(inplace=True), nn.Unflatten(1, (2, 2)), nn.Flatten(), nn.Linear(4, 3)
    )
    memory = activation_memory(model, torch.randn(6, 10))
    assert memory.total == 4 * 6 * (4 + 3)
    assert memory.modules == {"": 0, "0": 4 * 24, "1": 0, "2": 0, "3": 0, "4": 4 * 18}


def test_the_peak_is_what_is_alive_at_once():
    deep = nn.Sequential(*[nn.Linear(16, 16) for _ in range(7)])
    gc.disable()  # references alone must free what is dead
    try:
        memory = activation_memory(deep, torch.randn(2, 16))
    finally:
        gc.enable()
    assert memory.total == 7 * 4 * 32
    assert memory.peak == 2 * 4 * 32

    class Skip(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = deep

        def forward(self, x):
            held = x + 1
            return self.inner(held) + held

    assert activation_memory(Skip(), torch.randn(2, 16)).peak == 3 * 4 * 32


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_activations_are_counted_in_bytes(dtype):
    memory = activation_memory(nn.Linear(10, 4).to(dtype), torch.randn(6, 10, dtype=dtype))
    assert memory.total == 24 * dtype.itemsize


def test_the_meta_device_tells_the_same_without_computing():
    model, example = create("cnn-4", num_classes=10, in_channels=3, image_size=32), torch.randn(2, 3, 32, 32)
    here = activation_memory(model, example)
    there = activation_memory(model.to("meta"), example.to("meta"))
    convolutions = [name for name in here.modules if "conv" in name]
    assert all(there.modules[name] == here.modules[name] > 0 for name in convolutions)
    assert count_macs(model, example.to("meta")) == count_macs(model.to_empty(device="cpu"), example)


def test_a_model_that_fails_is_left_without_hooks():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(3, 3))
    with pytest.raises(RuntimeError):
        footprint(model, torch.randn(1, 2))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert torch.backends.mha.get_fastpath_enabled()


def test_latency_names_what_it_was_measured_with():
    model = nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.5)).double()
    threads = torch.get_num_threads()
    timing = latency(model, (torch.randn(4, 8).double(),), threads=1, seconds=0.02)
    assert 0 < timing.median < 1
    assert timing.iqr >= 0
    assert timing.calls > 1
    assert (timing.threads, timing.dtype, timing.device, timing.shapes) == (1, "float64", "cpu", ((4, 8),))
    assert "1 thread, float64, cpu, example 4x8" in str(timing)
    assert model.training
    assert torch.get_num_threads() == threads


def test_a_model_that_does_more_takes_longer():
    small, large = nn.Linear(8, 8), nn.Sequential(*[nn.Linear(512, 512) for _ in range(8)])
    first = latency(small, torch.randn(1, 8), seconds=0.05)
    second = latency(large, torch.randn(64, 512), seconds=0.05)
    assert second.median > 5 * first.median


@pytest.mark.parametrize("options", [{"threads": 0}, {"threads": True}, {"seconds": 0.0}, {"seconds": float("nan")}])
def test_latency_refuses_what_it_cannot_measure_with(options):
    with pytest.raises(ValueError, match="must be"):
        Latency(**options)
