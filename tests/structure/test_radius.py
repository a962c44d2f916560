"""Radius rules: closed forms against layers that are initialised many times, and no touch of the live weights."""

import math

import pytest
import torch
from torch import nn

from pliant.regions import Lp, TopK
from pliant.structure import Diameter, Fixed, InitScaled, Plan, initial_norm
from pliant.structure.rules import slots_of

LAYERS = {
    "linear": lambda: nn.Linear(30, 40),
    "conv1d": lambda: nn.Conv1d(8, 24, 5),
    "conv2d": lambda: nn.Conv2d(8, 24, 3),
    "conv3d": lambda: nn.Conv3d(4, 16, 2),
    "grouped": lambda: nn.Conv2d(8, 24, 3, groups=4),
    "depthwise": lambda: nn.Conv2d(32, 32, 3, groups=32),
    "transposed1d": lambda: nn.ConvTranspose1d(8, 24, 3),
    "transposed2d": lambda: nn.ConvTranspose2d(8, 24, 3),
    "transposed3d": lambda: nn.ConvTranspose3d(4, 16, 2),
    "transposed grouped": lambda: nn.ConvTranspose2d(8, 24, 3, groups=2),
    "rnn": lambda: nn.RNN(12, 16),
    "lstm with projection": lambda: nn.LSTM(12, 16, proj_size=8, num_layers=2, bidirectional=True),
    "gru": lambda: nn.GRU(12, 16),
    "lstm cell": lambda: nn.LSTMCell(12, 16),
    "attention": lambda: nn.MultiheadAttention(16, 2),
    "attention of other sizes": lambda: nn.MultiheadAttention(16, 2, kdim=12, vdim=20),
    "embedding": lambda: nn.Embedding(30, 20),
    "padded embedding": lambda: nn.Embedding(10, 20, padding_idx=0),
    "embedding bag": lambda: nn.EmbeddingBag(30, 20),
    "batch norm": lambda: nn.BatchNorm2d(16),
    "layer norm": lambda: nn.LayerNorm((4, 5)),
    "group norm": lambda: nn.GroupNorm(2, 16),
}


def measured(make, name, times=200):
    torch.manual_seed(0)
    squares = [float(make().get_parameter(name).detach().double().square().sum()) for _ in range(times)]
    return math.sqrt(sum(squares) / times)


@pytest.mark.parametrize("layer", LAYERS)
def test_closed_forms_are_what_initialisation_gives(layer):
    torch.manual_seed(1)
    module = LAYERS[layer]()
    for name, parameter in module.named_parameters():
        if name.startswith("out_proj"):
            continue  # a linear layer of its own
        expected = measured(LAYERS[layer], name) or 1.0
        assert initial_norm(module, name, parameter) == pytest.approx(expected, rel=0.02), name


@pytest.mark.parametrize("layer", LAYERS)
def test_a_trained_layer_gets_the_radius_of_a_fresh_one(layer):
    module = LAYERS[layer]()
    names = [name for name, _ in module.named_parameters() if not name.startswith("out_proj")]
    fresh = [initial_norm(module, name, module.get_parameter(name)) for name in names]
    with torch.no_grad():
        for p in module.parameters():
            p.mul_(0.01).add_(0.3)
    assert fresh == [initial_norm(module, name, module.get_parameter(name)) for name in names]


def test_other_parameters_are_measured_and_zero_counts_as_one():
    module = nn.Module()
    module.token, module.scale = nn.Parameter(torch.full((4,), 1.5)), nn.Parameter(torch.zeros(4))
    assert initial_norm(module, "token", module.token) == pytest.approx(3.0)
    assert initial_norm(module, "scale", module.scale) == 1.0


def test_norms_are_kept_per_parameter_and_not_per_shape():
    model = nn.Sequential(nn.Conv1d(16, 16, 1, bias=False), nn.BatchNorm1d(16), nn.Linear(48, 16))
    found = [initial_norm(s.module, s.local, s.parameter) for s in slots_of(model)]
    assert found == pytest.approx([math.sqrt(16 / 3), 4.0, 1.0, math.sqrt(16 / 3), math.sqrt(16 / (3 * 48))])


def test_plans_read_weights_only_and_draw_nothing():
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 3))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    random = torch.get_rng_state()
    Plan.for_filters(model, k=0.5)
    Plan.for_low_rank(model, k=0.5)
    Plan.for_unstructured(model, k=0.5)
    assert torch.equal(random, torch.get_rng_state())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("gauge", "count", "factor"),
    [
        (TopK(3), 10, 1.0),
        (TopK(0.4, math.inf), 10, 2.0),
        (TopK(1), 10, 1.0),
        (Lp(2.0), 10, 1.0),
        (Lp(math.inf), 16, 4.0),
        (Lp(1.5), 16, 1.0),
        (Lp(4.0), 16, 2.0),
    ],
)
def test_rules_give_the_radius_of_their_diameter(gauge, count, factor):
    """The diameter of the unit ball is 2 * factor."""
    assert Fixed(1.5).radius(gauge, count, 7.0) == 1.5
    assert Diameter(6.0).radius(gauge, count, 7.0) == pytest.approx(3.0 / factor)
    assert InitScaled(30.0).radius(gauge, count, 7.0) == pytest.approx(210.0 / factor)


@pytest.mark.parametrize("rule", [Fixed, Diameter, InitScaled])
@pytest.mark.parametrize("value", [0.0, -1.0, math.inf, math.nan])
def test_rules_refuse_impossible_values(rule, value):
    with pytest.raises(ValueError, match=r"(value|scale) must be positive and finite, found"):
        rule(value)
