"""Ranks of large matrices are cut by subspace iteration: nearly the best approximation, everything else as ever."""

import copy
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from pliant.compress import EqualError, EqualFraction, LowRank, Scheme
from pliant.methods import operator_of
from pliant.spec import register

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


@pytest.mark.parametrize("fraction", [0.85, 0.5], ids=["iterated", "decomposed"])
@pytest.mark.parametrize("rank", [None, 5], ids=["full", "deficient"])
@pytest.mark.parametrize("name", LAYERS)
def test_its_gate_is_a_projection_that_keeps_the_cut_weight(name, rank, fraction):
    model = net(name, trained=False)
    weight = model[1].weight
    if rank is not None:
        with torch.no_grad():
            left, values, right = torch.linalg.svd(weight.flatten(1), full_matrices=False)
            weight.copy_((left[:, :rank] * values[:rank] @ right[:rank]).view_as(weight))
    gates = operator_of(LowRank(scheme=Scheme.SPATIAL), model, EXAMPLE).compress(fraction)
    gate, gradient = gates[weight], torch.randn(weight.shape)
    torch.testing.assert_close(gate(weight.detach()), weight.detach(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(gate(gate(gradient)), gate(gradient), rtol=1e-4, atol=1e-4)
    assert gate(gradient).norm() < 0.9 * gradient.norm()


def test_autocast_does_not_make_a_cut_coarser():
    first, second = (net("square", trained=True) for _ in range(2))
    compressor = LowRank(scheme=Scheme.SPATIAL)
    gradient = torch.randn(first[1].weight.shape)
    gated = operator_of(compressor, first, EXAMPLE).compress(0.85)[first[1].weight](gradient)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(operator_of(compressor, second, EXAMPLE).compress(0.85)[second[1].weight](gradient), gated)
    assert torch.equal(first[1].weight, second[1].weight)


def test_rows_of_zeros_stay_zero_and_layers_that_lose_nothing_stay_as_they_are():
    model = net("square", trained=False)
    with torch.no_grad():
        model[1].weight[3] = 0.0
    before = copy.deepcopy(model)
    gates = operator_of(LowRank(scheme=Scheme.SPATIAL, minimum=80), model, EXAMPLE).compress(0.9)
    assert list(gates) == [model[0].weight, model[1].weight]
    assert torch.equal(model[3].weight, before[3].weight)
    assert not model[1].weight[3].any()
    assert not operator_of(LowRank(scheme=Scheme.SPATIAL), model, EXAMPLE).compress(0.0)


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


@register
@dataclass(frozen=True)
class Tall(EqualFraction):
    """A rule that looks at the values, of a kind that does not."""

    def ranks(self, spectra, fraction, minimum):
        return [tall(values) if fraction else max(minimum, values.shape[-1]) for values in spectra]


@register
class TallAlone(LowRank):
    """A compressor that shares out in a way of its own."""

    def shares(self, spectra, fraction):
        return [tall(values) if fraction else values.shape[-1] for values in spectra.values()]


def tall(values):
    return max(1, int((values.sum(0) > 0.5 * values.max()).sum()))


@pytest.mark.parametrize(
    "compressor",
    [LowRank(rule=Tall(), scheme=Scheme.SPATIAL), TallAlone(scheme=Scheme.SPATIAL)],
    ids=["rule", "compressor"],
)
def test_kinds_of_others_see_the_values(compressor):
    model = net("square", trained=True)
    before = model[1].weight.detach().clone()
    operator_of(compressor, model, EXAMPLE).compress(0.85)
    left, values, right = torch.linalg.svd(before.permute(0, 3, 1, 2).reshape(288, 288))
    rank = int((values > 0.5 * values[0]).sum())
    best = (left[:, :rank] * values[:rank] @ right[:rank]).view(96, 3, 96, 3).permute(0, 2, 3, 1)
    assert rank < 43
    torch.testing.assert_close(model[1].weight.detach(), best, rtol=1e-3, atol=1e-6)
