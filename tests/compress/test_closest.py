"""The closest of several compressors, against cutting by each of them."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from pliant.compress import (
    Both,
    BudgetError,
    FilterPruning,
    LowRank,
    Macs,
    UnstructuredPruning,
    closest,
    compress,
)

X = torch.randn(60, 3, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
BATCHES = [X[:40], X[40:]]
SPLITS = [Both(split=split) for split in (1.0, 0.5, 0.0)]


def network():
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 12, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(12 * 64, 5)).double()


def distance(model, compressor, budget):
    small = compress(model, compressor, budget=budget, example=X[:2], reconstruct=BATCHES).model
    with torch.no_grad():
        return sum(float((small(x) - model(x)).square().sum()) for x in BATCHES)


@pytest.mark.parametrize("share", [0.7, 0.4])
def test_it_is_the_one_of_least_distance(share):
    model, budget = network(), Macs(share)
    found = closest(SPLITS, model, BATCHES, budget=budget, example=X[:2])
    distances = {one.split: distance(model, one, budget) for one in SPLITS}
    assert len(set(distances.values())) == 3
    assert found.split == min(distances, key=distances.get)


def test_ranks_are_chosen_where_weights_have_few_and_channels_where_few_are_read():
    low, few = network(), network()
    with torch.no_grad():
        flat = low[2].weight.view(12, -1)
        flat.copy_(flat[:, :3] @ flat[:3])
        few[0].weight[3:] = 0.0
        few[0].bias[3:] = 0.0
    kinds = [FilterPruning(layers=FilterPruning().layers), LowRank()]
    assert isinstance(closest(kinds, low, BATCHES, budget=Macs(0.6), example=X[:2]), LowRank)
    assert isinstance(closest(kinds, few, BATCHES, budget=Macs(0.6), example=X[:2]), FilterPruning)


def test_fractions_and_single_candidates_too():
    found = closest([UnstructuredPruning()], network(), BATCHES, 0.5, example=X[:2])
    assert found == UnstructuredPruning()


def test_what_cannot_meet_the_budget_is_left_out():
    model = network()
    stuck = FilterPruning(ignore=("*",))
    assert closest([stuck, LowRank()], model, BATCHES, budget=Macs(0.5), example=X[:2]) == LowRank()
    with pytest.raises(BudgetError):
        closest([stuck, replace(stuck, strict=False)], model, BATCHES, budget=Macs(0.5), example=X[:2])


def test_the_model_is_left_as_it_is():
    model = network().train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    closest(SPLITS, model, BATCHES, budget=Macs(0.5), example=X[:2])
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert model.training
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"candidates": []}, "at least one compressor"),
        ({"batches": []}, "at least one batch"),
        ({"fraction": 0.5}, "exactly one of fraction and budget"),
        ({"budget": None}, "exactly one of fraction and budget"),
    ],
)
def test_bad_input_is_named(change, match):
    given = {"candidates": SPLITS, "batches": BATCHES, "fraction": None, "budget": Macs(0.5)} | change
    with pytest.raises(ValueError, match=match):
        closest(
            given["candidates"], network(), given["batches"], given["fraction"], budget=given["budget"], example=X[:2]
        )


def test_candidates_must_be_compressors():
    with pytest.raises(TypeError):
        closest(["filters"], network(), BATCHES, budget=Macs(0.5), example=X[:2])
