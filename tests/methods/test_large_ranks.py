"""Ranks of large matrices are cut by subspace iteration: nearly the best approximation, everything else as ever."""

import copy

import pytest
import torch
from torch import nn

from pliant.compress import EqualError, LowRank, Scheme
from pliant.methods import operator_of

EXAMPLE = torch.zeros(1, 96, 5, 5)
LAYERS = {
    "square": lambda: nn.Conv2d(96, 96, 3, padding=1),
    "tall": lambda: nn.Conv2d(96, 128, 3, padding=1),
    "wide": lambda: nn.Conv2d(128, 96, 3, padding=1),
    "groups": lambda: nn.Conv2d(192, 192, 3, padding=1, groups=2),
}


def net(name, *, trained):
    torch.manual_seed(0)
    layer = LAYERS[name]()
    before = nn.Conv2d(96, layer.in_channels, 1)
    model = nn.Sequential(before, layer, nn.Flatten(), nn.Linear(layer.out_channels * 25, 3))
    if trained:  # values that fall to a tenth every forty
        with torch.no_grad():
            matrices = layer.weight.flatten(1)
            left, values, right = torch.linalg.svd(matrices, full_matrices=False)
            layer.weight.copy_(((left * 0.1 ** (torch.arange(len(values)) / 40)) @ right).view_as(layer.weight))
    return model


def error(weight, near):
    return float((weight - near).detach().norm() / weight.detach().norm())


@pytest.mark.parametrize("trained", [False, True], ids=["random", "trained"])
@pytest.mark.parametrize("name", LAYERS)
def test_it_is_nearly_the_best_approximation_of_its_rank(name, trained):
    model, compressor = net(name, trained=trained), LowRank(scheme=Scheme.SPATIAL)
    before = model[1].weight.detach().clone()
    cut = compressor.select(model, 0.85, example=EXAMPLE)
    best = compressor.truncate(model, cut)
    operator_of(compressor, model, EXAMPLE).compress(0.85)
    assert error(before, model[1].weight) <= 1.02 * error(before, best[1].weight)
    again = compressor.truncate(model, cut)  # it has that rank
    torch.testing.assert_close(again[1].weight, model[1].weight, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", LAYERS)
def test_its_gate_is_a_projection_that_keeps_the_cut_weight(name):
    model = net(name, trained=False)
    gates = operator_of(LowRank(scheme=Scheme.SPATIAL), model, EXAMPLE).compress(0.85)
    weight = model[1].weight
    gate, gradient = gates[weight], torch.randn(weight.shape)
    torch.testing.assert_close(gate(weight.detach()), weight.detach(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(gate(gate(gradient)), gate(gradient), rtol=1e-4, atol=1e-4)
    assert gate(gradient).norm() < 0.9 * gradient.norm()


def test_it_depends_on_nothing_but_the_weights():
    first, second = (net("square", trained=False) for _ in range(2))
    operator = operator_of(LowRank(scheme=Scheme.SPATIAL), first, EXAMPLE)
    whole = copy.deepcopy(first.state_dict())
    operator.compress(0.9)
    first.load_state_dict(whole)
    operator.compress(0.85)
    operator_of(LowRank(scheme=Scheme.SPATIAL), second, EXAMPLE).compress(0.85)
    assert torch.equal(first[1].weight, second[1].weight)


@pytest.mark.parametrize(("rule", "fraction"), [(EqualError(), 0.85), (None, 0.3)], ids=["values", "few"])
def test_where_values_are_needed_or_few_go_it_is_the_best(rule, fraction):
    model = net("square", trained=True)
    compressor = LowRank(scheme=Scheme.SPATIAL) if rule is None else LowRank(rule=rule, scheme=Scheme.SPATIAL)
    cut = compressor.select(model, fraction, example=EXAMPLE)
    best = compressor.truncate(model, cut)
    operator_of(compressor, model, EXAMPLE).compress(fraction)
    torch.testing.assert_close(model[1].weight, best[1].weight, rtol=1e-4, atol=1e-6)
