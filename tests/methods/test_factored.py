"""Decomposed in the middle, plain at the end: the collapsed model is the decomposed one."""

import pytest
import torch
from torch import nn

from pliant.compress import Energy, LowRank, Scheme
from pliant.compress.factor import Factors
from pliant.methods import Factored


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.one = nn.Conv2d(3, 16, 3, padding=1, stride=2, bias=False)
        self.norm = nn.BatchNorm2d(16)
        self.grouped = nn.Conv2d(16, 16, 3, padding=1, groups=2, dilation=1)
        self.up = nn.ConvTranspose2d(16, 12, 2, stride=2)
        self.hidden = nn.Linear(12, 40)
        self.last = nn.Linear(40, 5)

    def forward(self, x):
        x = self.up(self.grouped(self.norm(self.one(x)).relu()).relu())
        return self.last(self.hidden(x.mean((2, 3))).relu())


@pytest.fixture(params=Scheme)
def changed(request):
    torch.manual_seed(0)
    model = Net().double().eval()
    compressor = LowRank(scheme=request.param)
    example = torch.randn(2, 3, 12, 12, dtype=torch.float64)
    return model, Factored(compressor, compressor.select(model, 0.7, example=example)), example


def test_collapsed_is_decomposed_with_the_names_and_shapes_of_the_plain_model(changed):
    model, change, example = changed
    small = change.apply(model)
    assert sum(isinstance(module, Factors) for module in small.modules()) == 4
    with torch.no_grad():
        for parameter in small.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    plain = change.collapse(small)
    torch.testing.assert_close(plain(example), small(example))
    shapes = [{name: x.shape for name, x in net.state_dict().items()} for net in (model, plain)]
    assert shapes[0] == shapes[1]
    assert plain.training is small.training


def test_neither_direction_touches_what_it_is_given(changed):
    model, change, _ = changed
    before = {name: x.clone() for name, x in model.state_dict().items()}
    small = change.apply(model)
    held = {name: x.clone() for name, x in small.state_dict().items()}
    change.collapse(small)
    assert all(torch.equal(x, before[name]) for name, x in model.state_dict().items())
    assert all(torch.equal(x, held[name]) for name, x in small.state_dict().items())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_all_of_the_energy_drops_exact_zeros_alone(dtype):
    """100 per cent: a weight of rank 3 up to rounding keeps 3, and one of full rank keeps all."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 30), nn.ReLU(), nn.Linear(30, 30), nn.ReLU(), nn.Linear(30, 2)).to(dtype)
    with torch.no_grad():
        model[2].weight.copy_(torch.randn(30, 3, dtype=dtype) @ torch.randn(3, 30, dtype=dtype))
    cut = LowRank(rule=Energy(1.0)).select(model, example=torch.zeros(1, 20, dtype=dtype))
    assert cut.kept == {"0": 20, "2": 3}
