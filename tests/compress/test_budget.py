"""Budgets on models: met, used up to one atom, and predicted exactly."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import product

import pytest
import torch
from budgeted import FACTORIES, build
from torch import nn

from pliant.compress import (
    Energy,
    FilterPruning,
    Global,
    Layers,
    LowRank,
    Scheme,
    TensorTrain,
    UnstructuredPruning,
    compress,
)
from pliant.compress.both import Both
from pliant.compress.budgets import BudgetError, ByFraction, Greedy, Macs, Params
from pliant.compress.budgets.products import products_of
from pliant.compress.budgets.weights import Ranks, weights_of
from pliant.compress.compressed import output_difference
from pliant.compress.probe import probe
from pliant.metrics.size import size

COMPRESSORS = {
    "filters": FilterPruning(),
    "rank": LowRank(),
    "both": Both(),
    "spatial": LowRank(scheme=Scheme.SPATIAL),
    "both-spatial": Both(low_rank=LowRank(scheme=Scheme.SPATIAL)),
}
SLOW = {"resnet-20", "vgg"}
NAMES = [pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else []) for name in FACTORIES]
PAIRS = [
    pytest.param(name, compressor, marks=[pytest.mark.slow] if name in SLOW else [], id=f"{name}-{kind}")
    for name, (kind, compressor) in product(FACTORIES, COMPRESSORS.items())
    if name != "token-mixer" or kind not in {"rank", "spatial"}  # more than half of its work is in no layer
]
BUDGETS = [Macs(0.5), Params(0.6), Macs(0.5, ByFraction())]


def cost(budget, model, example):
    found = size(model, example)
    return found.macs if isinstance(budget, Macs) else found.parameters


def predicted(budget, cut):
    return cut.macs if isinstance(budget, Macs) else cut.parameters


@pytest.mark.parametrize("budget", BUDGETS, ids=repr)
@pytest.mark.parametrize(("name", "compressor"), PAIRS)
def test_the_realised_model_is_within_the_budget_and_costs_what_the_cut_says(name, compressor, budget):
    model, example = build(name)
    dense = cost(budget, model, example)
    cut = compressor.select(model, budget=budget, example=example)
    small = compressor.realise(model, cut)
    found = size(small, example)
    assert cost(budget, small, example) <= budget.limit(dense)
    assert (found.macs, found.parameters) == (cut.macs, cut.parameters)
    assert cut.fraction is None
    difference, largest = output_difference(compressor.truncate(model, cut), small, example)
    assert difference <= 1e-10 * largest


@pytest.mark.parametrize("budget", BUDGETS, ids=repr)
@pytest.mark.parametrize("name", NAMES)
def test_no_channel_more_would_fit(name, budget):
    model, example = build(name)
    compressor = FilterPruning()
    dense = cost(budget, model, example)
    cut = compressor.select(model, budget=budget, example=example)
    for knob in compressor.survey(model, example).orders:
        kept = cut.listed(knob.group.name)
        if len(kept) < knob.group.atoms:
            following = [atom for atom in knob.order if atom not in kept][-1]
            more = replace(cut, kept={**cut.kept, knob.group.name: tuple(sorted((*kept, following)))})
            assert cost(budget, compressor.realise(model, more), example) > budget.limit(dense)


@pytest.mark.parametrize("budget", BUDGETS, ids=repr)
@pytest.mark.parametrize("name", ["resnet", "vit"])
@pytest.mark.parametrize("scheme", Scheme)
def test_no_rank_more_would_fit(scheme, name, budget):
    model, example = build(name)
    compressor = LowRank(scheme=scheme)
    limit = budget.limit(cost(budget, model, example))
    cut = compressor.select(model, budget=budget, example=example)
    assert not cut.left_dense  # a layer that stays whole keeps its whole rank
    for layer in cut.reduced():
        for rank in (cut.count(layer) + 1, cut.atoms[layer]):  # in two layers, or undivided if that is cheaper
            more = replace(cut, kept={**cut.kept, layer: rank})
            assert cost(budget, compressor.realise(model, more), example) > limit


@pytest.mark.parametrize("compressor", COMPRESSORS.values(), ids=COMPRESSORS)
def test_a_budget_that_cannot_be_met_names_the_smallest_that_can(compressor):
    model, example = build("separable")
    for kind in (Macs, Params):
        with pytest.raises(BudgetError) as caught:
            compressor.select(model, budget=kind(1), example=example)
        least = int(smallest(caught.value))
        cut = compressor.select(model, budget=kind(least), example=example)
        assert predicted(kind(1), cut) == least
        with pytest.raises(BudgetError):
            compressor.select(model, budget=kind(least - 1), example=example)


@pytest.mark.parametrize("compressor", [*COMPRESSORS.values(), TensorTrain()], ids=[*COMPRESSORS, "trains"])
def test_a_budget_that_cannot_be_met_says_what_had_to_stay(compressor):
    model, example = build("separable")
    reasons = set(compressor.select(model, 0.0, example=example).skipped.values())
    with pytest.raises(BudgetError, match="these stay whole: ") as caught:
        compressor.select(model, budget=Macs(1), example=example)
    assert any(f"({reason})" in str(caught.value) for reason in reasons)


def smallest(error):
    return float(re.search(r"at least ([\d,.]+)", str(error)).group(1).replace(",", ""))


def test_the_whole_budget_removes_nothing():
    model, example = build("resnet")
    for compressor in COMPRESSORS.values():
        for budget in (Macs(1.0), Params(10**12, ByFraction())):
            assert not compressor.select(model, budget=budget, example=example).reduced()


def test_a_share_and_the_number_it_stands_for_give_the_same_cut():
    model, example = build("resnet")
    macs = size(model, example).macs
    share = LowRank().select(model, budget=Macs(0.5), example=example)
    number = LowRank().select(model, budget=Macs(int(0.5 * macs)), example=example)
    assert replace(share, budget=None) == replace(number, budget=None)
    assert (share.budget.reached, share.budget.target) == (number.budget.reached, 0.5)


def test_kept_channels_are_multiples_where_asked():
    model, example = build("resnet")
    cut = FilterPruning(round_to=4).select(model, budget=Macs(0.5), example=example)
    assert all(cut.count(name) % 4 == 0 or cut.count(name) == atoms for name, atoms in cut.atoms.items())
    assert cut.reduced()


def test_ignored_layers_stay_whole():
    model, example = build("resnet")
    for compressor in (FilterPruning(ignore=("stages.0.*",)), LowRank(ignore=("stages.0.*",))):
        cut = compressor.select(model, budget=Macs(0.95), example=example)
        small = dict(compressor.realise(model, cut).named_parameters())
        whole = [n for n, m in model.named_modules() if isinstance(m, nn.Conv2d) and n.startswith("stages.0.")]
        assert whole
        assert all(small[f"{n}.weight"].shape[0] == model.get_submodule(n).weight.shape[0] for n in whole)


def test_the_minimum_of_scope_and_rank_stays():
    model, example = build("resnet")
    cut = FilterPruning(scope=Global(minimum=3)).select(model, budget=Macs(0.4), example=example)
    assert min(map(cut.count, cut.atoms)) >= 3
    cut = LowRank(minimum=2).select(model, budget=Macs(0.4), example=example)
    assert min(map(cut.count, cut.atoms)) >= 2


def test_channels_that_carry_nothing_and_ranks_that_are_not_there_go_first():
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3),
        nn.ReLU(), nn.Flatten(), nn.Linear(16 * 36, 4),
    ).double()  # fmt: skip
    example = torch.randn(2, 3, 8, 8).double()
    with torch.no_grad():
        model[0].weight[::2] = model[0].bias[::2] = 0.0
        flat = model[4].weight.view(16, -1)
        flat.copy_(flat[:, :3] @ flat[:3])
    share = 0.45
    changes = {}
    for name, compressor in COMPRESSORS.items():
        cut = compressor.select(model, budget=Macs(share), example=example)
        difference, largest = output_difference(model, compressor.realise(model, cut), example)
        changes[name] = difference / largest
    assert changes["both"] < 1e-10
    assert min(changes["filters"], changes["rank"]) > 1e-3


def test_by_fraction_keeps_at_least_what_the_rule_keeps_at_some_fraction():
    model, example = build("separable")
    compressor = LowRank(Energy())
    cut = compressor.select(model, budget=Macs(0.8, ByFraction()), example=example)
    whole = [compressor.select(model, f / 100, example=example) for f in range(0, 100, 10)]
    below = [one for one in whole if one.macs <= 0.8 * one.dense_macs]
    assert all(cut.count(layer) >= below[0].count(layer) or cut.count(layer) == cut.atoms[layer] for layer in cut.atoms)


@pytest.mark.parametrize("target", [0.0, 1.5, -0.1, 0, -3, True, float("nan"), "50%", None])
@pytest.mark.parametrize("kind", [Macs, Params])
def test_a_target_must_be_a_share_or_a_count(kind, target):
    with pytest.raises(BudgetError, match="share"):
        kind(target)


@pytest.mark.parametrize("compressor", COMPRESSORS.values(), ids=COMPRESSORS)
def test_a_request_is_one_fraction_or_one_budget(compressor):
    model, example = build("separable")
    with pytest.raises(ValueError, match="fraction must be None"):
        compressor.select(model, 0.5, budget=Macs(0.5), example=example)
    with pytest.raises(ValueError, match="fraction must be given"):
        compressor.select(model, example=example)
    with pytest.raises(ValueError, match="must be a Budget"):
        compressor.select(model, budget=0.5, example=example)


def test_a_rule_with_a_level_of_its_own_takes_no_budget():
    model, example = build("separable")
    with pytest.raises(ValueError, match="level"):
        LowRank(Energy(0.9)).select(model, budget=Macs(0.5), example=example)


def test_single_weights_have_no_budget():
    model, example = build("separable")
    with pytest.raises(ValueError, match="save nothing"):
        UnstructuredPruning().select(model, budget=Macs(0.5), example=example)


def test_greedy_beats_the_same_share_everywhere_where_layers_differ():
    model = nn.Sequential(*(nn.Linear(24, 24) for _ in range(4)), nn.Linear(24, 3)).double()
    with torch.no_grad():
        for index in (0, 2):
            model[index].weight[4:] *= 0.01
            model[index].bias[4:] *= 0.01
    example = torch.randn(8, 24).double()
    errors = []
    for allocation in (Greedy(), ByFraction()):
        compressor = FilterPruning(layers=Layers.LINEARS)
        cut = compressor.select(model, budget=Macs(0.4, allocation), example=example)
        errors.append(output_difference(model, compressor.realise(model, cut), example)[0])
    assert errors[0] < 0.5 * errors[1]


@pytest.mark.parametrize("compressor", COMPRESSORS.values(), ids=COMPRESSORS)
@pytest.mark.parametrize("name", ["resnet", "vit"])
def test_the_model_runs_few_times(name, compressor, monkeypatch):
    model, example = build(name)
    calls = []
    forward = type(model).forward
    monkeypatch.setattr(type(model), "forward", lambda self, x: calls.append(1) or forward(self, x))
    compressor.select(model, budget=Macs(0.5), example=example)
    assert 0 < len(calls) <= 30


def test_heads_take_their_products_with_them():
    model, example = build("vit")
    survey = FilterPruning(ignore=("*.fc1",)).survey(model, example)
    groups = dict(enumerate(survey.orders))
    products = products_of(model, example, weights_of(model, probe(model, example), groups, Ranks({})), groups)
    shapes = []
    model.blocks[0].attention.register_forward_hook(lambda _, args, __: shapes.append(args[0].shape))
    model(example)
    batch, tokens, dim = shapes[0]
    width = dim // model.blocks[0].attention.num_heads
    assert [(one.knob, one.per_atom) for one in products] == [
        (0, 2 * batch * tokens**2 * width),
        (1, products[0].per_atom),
    ]


def test_what_no_layer_explains_is_counted():
    model, example = build("token-mixer")
    compressor = FilterPruning(layers=Layers.ALL)
    for share in (0.8, 0.6, 0.4):
        cut = compressor.select(model, budget=Macs(share), example=example)
        assert (
            0.8 * share * cut.dense_macs < size(compressor.realise(model, cut), example).macs <= share * cut.dense_macs
        )


@pytest.mark.parametrize("compressor", COMPRESSORS.values(), ids=COMPRESSORS)
def test_macs_and_params_are_short_for_budgets(compressor):
    model, example = build("separable")
    done = compress(model, compressor, macs=0.7, example=example)
    assert done.report.macs == done.cut.macs <= 0.7 * done.cut.dense_macs
    assert done.cut == compress(model, compressor, budget=Macs(0.7), example=example).cut
    done = compress(model, compressor, params=0.7, example=example)
    assert done.report.parameters == done.cut.parameters <= 0.7 * done.cut.dense_parameters


def test_budgets_exclude_each_other():
    model, example = build("separable")
    with pytest.raises(BudgetError, match="exclude"):
        compress(model, LowRank(), macs=0.5, params=0.5, example=example)
    with pytest.raises(ValueError, match="fraction must be None"):
        compress(model, LowRank(), 0.5, macs=0.5, example=example)
