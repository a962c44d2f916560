"""Channels and ranks cut together."""

from __future__ import annotations

import copy
import json
import pickle
from dataclasses import replace

import pytest
import torch
from budgeted import build as build_budgeted
from compressible import build
from torch import nn

from pliant.compress import (
    Cut,
    CutError,
    Energy,
    FilterPruning,
    Global,
    Layers,
    LowRank,
    Scheme,
    backward_elimination,
    compress,
    load,
    save,
)
from pliant.compress.both import Both, joined
from pliant.compress.budgets import BudgetError, ByFraction, Macs, Params
from pliant.compress.factor import Factors
from pliant.testing.compressor_laws import check_compressor

COMPRESSORS = {
    "default": Both(),
    "spatial": Both(low_rank=LowRank(scheme=Scheme.SPATIAL)),
    "options": Both(FilterPruning(scope=Global(), layers=Layers.ALL), LowRank(Energy(), minimum=2)),
}


@pytest.mark.parametrize("architecture", ["plain", "residual", "special", "transposed", "attention"])
def test_laws(architecture):
    check_compressor(Both(), *build(architecture), fractions=(0.3, 0.5))


@pytest.mark.parametrize("architecture", ["plain", "concat", "attention"])
def test_laws_with_options(architecture):
    check_compressor(COMPRESSORS["options"], *build(architecture), fractions=(0.4,))


@pytest.mark.parametrize("architecture", ["plain", "residual", "conv1d"])
def test_laws_in_float32(architecture):
    check_compressor(Both(), *build(architecture, torch.float32), fractions=(0.5,))


@pytest.mark.parametrize("name", ["resnet", "separable", "token-mixer"])
def test_laws_on_real_patterns(name):
    check_compressor(Both(), *build_budgeted(name), fractions=(0.4,))


def test_a_fraction_is_taken_of_both():
    model, example = build("plain")
    cut = Both().select(model, 0.5, example=example)
    filters, ranks = cut.parts
    assert filters == FilterPruning().select(model, 0.5, example=example)
    assert ranks == LowRank().select(FilterPruning().realise(model, filters), 0.5, example=example)
    assert (cut.parameters, cut.macs) == (ranks.parameters, ranks.macs)
    assert (cut.dense_parameters, cut.dense_macs) == (filters.dense_parameters, filters.dense_macs)
    assert len(cut.atoms) == len(filters.atoms) + len(ranks.atoms)


def test_a_budget_takes_channels_and_ranks_of_one_layer():
    model = nn.Sequential(nn.Conv2d(3, 24, 3), nn.ReLU(), nn.Conv2d(24, 24, 3), nn.ReLU(), nn.Conv2d(24, 4, 1)).double()
    with torch.no_grad():
        flat = model[2].weight.view(24, -1)
        flat.copy_(flat[:, :5] @ flat[:5])
        for tensor in (model[2].weight, model[2].bias):
            tensor[::2] *= 1e-6
    example = torch.randn(2, 3, 10, 10).double()
    cut = Both(split=None).select(model, budget=Macs(0.3), example=example)
    assert cut.count("2") < 24
    assert cut.parts[1].count("2") < cut.parts[1].atoms["2"]
    layer = Both(split=None).realise(model, cut)[2]
    assert isinstance(layer, Factors)
    assert layer[1].out_channels == cut.count("2")
    assert layer[0].out_channels == cut.count("2.rank")


@pytest.mark.parametrize("budget", [Macs(0.25), Params(0.25)], ids=["macs", "params"])
def test_a_split_says_how_much_of_a_budget_is_met_by_channels(budget):
    model, example = build_budgeted("resnet")
    both = Both(split=0.5)
    cut = both.select(model, budget=budget, example=example)
    first, second = cut.parts
    before, after = (
        getattr(first, f"{kind}{type(budget).__name__.lower().replace('params', 'parameters')}")
        for kind in ("dense_", "")
    )
    assert after <= 0.5 * before
    assert second.budget.reached <= 0.25 * before
    assert cut.budget.reached == second.budget.reached
    only = FilterPruning().select(model, budget=replace(budget, target=after), example=example)
    assert {name: first.count(name) for name in first.atoms} == {name: only.count(name) for name in only.atoms}
    assert any(second.reduced())


def test_a_split_reaches_from_ranks_alone_to_channels_alone():
    model, example = build_budgeted("resnet")
    ranks, channels = (Both(split=split).select(model, budget=Macs(0.5), example=example) for split in (0.0, 1.0))
    assert ranks.parts[0].kept == FilterPruning().select(model, 0.0, example=example).kept
    assert ranks.parts[1].kept == LowRank().select(model, budget=Macs(0.5), example=example).kept
    assert channels.parts[0].kept == FilterPruning().select(model, budget=Macs(0.5), example=example).kept
    assert not list(channels.parts[1].reduced())


def test_scores_that_were_measured_do_not_keep_ranks_from_going():
    model, example = build_budgeted("resnet")
    scores = backward_elimination(FilterPruning(), model, [example])
    cut = Both(scores).select(model, budget=Macs(0.4), example=example)
    assert list(cut.parts[0].reduced())
    assert list(cut.parts[1].reduced())


@pytest.mark.parametrize("both", [Both(FilterPruning(ignore=("*",))), Both(low_rank=LowRank(ignore=("*",)))])
def test_where_one_of_the_two_cannot_go_the_other_does(both):
    model, example = build_budgeted("resnet")
    cut = both.select(model, budget=Macs(0.5), example=example)
    assert cut.budget.reached <= 0.5 * cut.dense_macs
    assert sum(any(part.reduced()) for part in cut.parts) == 1
    assert cut.kept == replace(both, split=None).select(model, budget=Macs(0.5), example=example).kept


def test_a_model_that_costs_nothing_cannot_meet_a_budget():
    with pytest.raises(BudgetError):
        Both().select(nn.ReLU(), budget=Macs(0.5), example=torch.randn(2, 16))


@pytest.mark.parametrize("split", [-0.1, 1.1, float("nan"), "0.5", True])
def test_a_split_out_of_range_is_refused(split):
    with pytest.raises(ValueError, match="split must lie in"):
        Both(split=split)


def test_what_was_decomposed_is_not_decomposed_again():
    model, example = build("plain")
    first = LowRank().select(model, 0.6, example=example)
    small = LowRank().realise(model, first)
    second = LowRank().select(small, 0.5, example=example)
    divided = [name for name in first.reduced() if name not in first.left_dense]
    assert divided
    for name in divided:
        for factor in (f"{name}.0", f"{name}.1"):
            assert "decomposed" in second.skipped[factor]
    assert not set(second.atoms) & {f"{name}.{i}" for name in divided for i in (0, 1)}


def test_channels_can_be_cut_after_ranks():
    model, example = build("residual")
    small = LowRank().realise(model, LowRank().select(model, 0.6, example=example))
    check_compressor(FilterPruning(), small, example, fractions=(0.4,))


def test_the_two_layers_are_plain():
    model, example = build("plain")
    small = Both().realise(model, Both().select(model, 0.6, example=example))
    pairs = [name for name, module in small.named_modules() if isinstance(module, Factors)]
    assert pairs
    assert {f"{name}.{i}.weight" for name in pairs for i in (0, 1)} <= set(small.state_dict())
    expected = small.eval()(example)
    for again in (copy.deepcopy(small), pickle.loads(pickle.dumps(small))):  # noqa: S301  (our own bytes)
        assert torch.equal(again.eval()(example), expected)
    exported = torch.export.export(small.eval(), (example,)).module()
    assert torch.allclose(exported(example), expected)


@pytest.mark.parametrize("request_", [{"fraction": 0.5}, {"budget": Macs(0.5)}], ids=["fraction", "budget"])
@pytest.mark.parametrize("both", [Both(), Both(split=None)], ids=["split", "solver"])
def test_a_cut_of_both_can_be_saved_and_loaded(both, request_, tmp_path):
    model, example = build("residual", torch.float32)
    done = compress(model, both, example=example, **request_)
    save(done, tmp_path / "small")
    again = load(tmp_path / "small", lambda: build("residual", torch.float32)[0])
    assert torch.equal(again.eval()(example), done.model.eval()(example))
    assert done.report.relative_difference <= 1e-5
    assert done.cut.removed_slices() == done.cut.parts[0].removed_slices()


def forged(first, second):
    """A cut that agrees with its parts, whatever they are."""
    return joined(Both(), first, second, 0.5)


def test_a_cut_that_contradicts_its_parts_is_refused():
    model, example = build("plain")
    cut = Both().select(model, 0.5, example=example)
    first, second = cut.parts
    name = next(iter(first.atoms))
    for other in (
        replace(cut, parts=()),
        replace(cut, parts=(first,)),
        replace(cut, parts=(first, first)),
        replace(cut, kept={**cut.kept, name: 1}),
        replace(cut, macs=1),
        forged(first, replace(second, atoms={**second.atoms, "no.such": 3}, kept={**second.kept, "no.such": 1})),
        forged(first, replace(second, atoms={**second.atoms, "1": 3}, kept={**second.kept, "1": 1})),
        forged(first, replace(second, atoms={**second.atoms, "0": 99}, kept={**second.kept, "0": 98})),
        forged(first, replace(second, kept={**second.kept, "0": (0,)})),
        forged(second, first),
    ):
        for method in (Both().truncate, Both().realise):
            with pytest.raises(CutError):
                method(model, other)


def test_parts_travel_through_json_one_level_deep():
    model, example = build("plain")
    cut = Both().select(model, 0.5, example=example)
    assert Cut.from_json(cut.to_json()) == cut
    plain = json.loads(cut.to_json())
    for bad in (
        {"parts": 3},
        {"parts": [3]},
        {"parts": [{}]},
        {"parts": [plain]},
        {"parts": plain["parts"] + [{"schema": 1}]},
    ):
        with pytest.raises(CutError):
            Cut.from_json(json.dumps(plain | bad))


def test_nested_options_and_a_level_are_refused_as_by_the_parts():
    model, example = build("plain")
    with pytest.raises(ValueError, match="level"):
        Both(low_rank=LowRank(Energy(0.9))).select(model, budget=Macs(0.5), example=example)


def test_by_fraction_channels_and_spatial_ranks_lose_the_same_share():
    model, example = build_budgeted("resnet")
    both = Both(low_rank=LowRank(scheme=Scheme.SPATIAL), split=None)
    cut = both.select(model, budget=Macs(0.25, ByFraction()), example=example)
    channels, ranks = ([1.0 - part.count(name) / part.atoms[name] for name in part.reduced()] for part in cut.parts)
    assert len(channels) > 2
    assert len(ranks) > 2
    assert abs(sum(channels) / len(channels) - sum(ranks) / len(ranks)) < 0.15
