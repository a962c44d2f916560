"""TensorTrain: the laws, the cut as data, budgets, and what a cut layer is."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from compressible import ARCHITECTURES, build
from torch import nn

from pliant.compress import (
    BudgetError,
    Cut,
    CutError,
    Energy,
    EqualError,
    FilterPruning,
    Layers,
    LowRank,
    Macs,
    Params,
    SquaredEnergy,
    TensorTrain,
    UnstructuredPruning,
    compress,
    load,
    save,
)
from pliant.compress.carry.optimizers import carry_over
from pliant.models import create
from pliant.tensor_train import Paired, Separate, TTConv2d, TTLinear, contract
from pliant.testing.compressor_laws import check_compressor
from pliant.training.compressors import build_compressor, label_of
from pliant.training.recipe_sweep import SweepSection

COMPRESSORS = {
    "default": TensorTrain(),
    "separate-2-2": TensorTrain(reading=Separate(2, 2)),
    "paired": TensorTrain(reading=Paired()),
    "paired-3-energy": TensorTrain(SquaredEnergy(), Paired(3), minimum=2),
    "error": TensorTrain(EqualError(), layers=Layers.CONVOLUTIONS),
}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_laws(architecture):
    check_compressor(TensorTrain(), *build(architecture))


@pytest.mark.parametrize("architecture", ["plain", "special"])
@pytest.mark.parametrize("name", [name for name in COMPRESSORS if name != "default"])
def test_laws_of_other_options(name, architecture):
    check_compressor(COMPRESSORS[name], *build(architecture), fractions=(0.3, 0.7))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_laws_in_lower_precision(dtype):
    tol = 0.05 if dtype is torch.bfloat16 else None
    check_compressor(TensorTrain(), *build("mlp", dtype), fractions=(0.5,), tol=tol)
    check_compressor(TensorTrain(reading=Paired(3)), *build("mlp", dtype), fractions=(0.9,), tol=tol)


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("name", [name for name in COMPRESSORS if name != "default"])
def test_all_laws_of_all_options(name, architecture):
    check_compressor(COMPRESSORS[name], *build(architecture))


MODELS = {
    "cnn-4": {"widths": (6, 8, 8, 10)},
    "lenet-5": {"widths": (4, 8, 20)},
    "lenet-300-100": {"widths": (30, 20)},
    "resnet-20": {"widths": (4, 6, 8)},
    "vit": {"dim": 24, "depth": 2},
    "wide-resnet-28-10": {"depth": 10, "width": 1},
    "vgg-16-bn": {"widths": (4, 4, 6, 6, 6)},
}


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS)
def test_laws_on_the_models_of_the_package(model):
    torch.manual_seed(0)
    built = create(model, num_classes=10, in_channels=3, image_size=16, **MODELS[model]).double()
    check_compressor(TensorTrain(), built, torch.randn(4, 3, 16, 16).double(), fractions=(0.6,), train=False)


def _only(layer, fraction, compressor=None, size=8):
    """Cut one layer."""
    last = nn.Linear(layer.out_features, 2) if isinstance(layer, nn.Linear) else nn.Conv2d(layer.out_channels, 2, 1)
    example = torch.randn(
        2, *((layer.in_features,) if isinstance(layer, nn.Linear) else (layer.in_channels, size, size))
    )
    model = nn.Sequential(layer, last).double()
    return compress(model, compressor or TensorTrain(), fraction, example=example.double())


def test_a_linear_layer_of_two_modes_is_cut_as_by_low_rank():
    torch.manual_seed(0)
    layer = nn.Linear(30, 20).double()
    train, pair = (_only(copy.deepcopy(layer), 0.6, compressor) for compressor in (TensorTrain(), LowRank()))
    x = torch.randn(5, 30, dtype=torch.float64)
    torch.testing.assert_close(train.model[0](x), pair.model[0](x), rtol=0, atol=1e-10)
    assert (train.report.parameters, train.report.macs) == (pair.report.parameters, pair.report.macs)


@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(12, 16, 3, padding=1),
        nn.Conv2d(12, 16, 3, stride=2, padding=(1, 0), bias=False),
        nn.Conv2d(12, 16, 5, dilation=(1, 2), padding="same", padding_mode="reflect"),
        nn.Conv2d(12, 16, (3, 2), padding=1, padding_mode="circular"),
    ],
    ids=str,
)
def test_a_convolution_becomes_three(conv):
    """The twin: a pointwise layer, the same convolution with few channels, a pointwise layer with the bias."""
    train = _only(conv, 0.7, size=12).model[0]
    assert isinstance(train, TTConv2d)
    last, window, first = (core.detach() for core in train.cores)
    r, s = window.shape[0], window.shape[2]
    options = {name: getattr(conv, name) for name in ("stride", "padding", "dilation", "padding_mode")}
    middle = nn.Conv2d(s, r, conv.kernel_size, bias=False, **options).double()
    twin = nn.Sequential(
        nn.Conv2d(12, s, 1, bias=False), middle, nn.Conv2d(r, 16, 1, bias=conv.bias is not None)
    ).double()
    with torch.no_grad():
        twin[0].weight.copy_(first[..., 0, None, None])
        middle.weight.copy_(window.permute(0, 2, 1).reshape(middle.weight.shape))
        twin[2].weight.copy_(last[0, :, :, None, None])
        if conv.bias is not None:
            twin[2].bias.copy_(conv.bias)
    x = torch.randn(2, 12, 12, 11, dtype=torch.float64)
    torch.testing.assert_close(train(x), twin(x), rtol=0, atol=1e-10)
    for name, value in options.items():
        assert getattr(train, name) == value


@pytest.mark.parametrize("fraction", [0.25, 0.5, 0.75])
def test_every_bond_loses_the_fraction(fraction):
    model, example = build("plain")
    cut = TensorTrain().select(model, fraction, example=example)
    realised = TensorTrain().realise(model, cut)
    shapes = {"0": (10, 3), "4": (12, 10), "8": (10, 12), "11": (16,)}
    for name, full in shapes.items():
        ranks = [rank - int(fraction * rank + 0.5) for rank in full]
        assert cut.atoms[name] == sum(full)
        assert cut.count(name) == sum(ranks)
        layer = realised.get_submodule(name)
        if name not in cut.left_dense:
            assert list(layer.form.ranks) == ranks


@pytest.mark.parametrize("error", [0.1, 0.3, 0.6])
@pytest.mark.parametrize("reading", [Separate(2, 2), Paired(3)], ids=str)
def test_a_level_bounds_the_error_of_every_layer(error, reading):
    model, example = build("plain")
    compressor = TensorTrain(EqualError(error), reading)
    cut = compressor.select(model, example=example)
    truncated = compressor.truncate(model, cut)
    for name in cut.atoms:
        old, new = model.get_submodule(name).weight, truncated.get_submodule(name).weight
        bonds = len(reading.modes(old.shape).sizes) - 1
        assert (new - old).norm() <= (bonds**0.5 * error + 1e-9) * old.norm()


def test_ranks_that_the_neighbours_cannot_use_are_lowered():
    done = _only(nn.Linear(64, 64), 0.9, TensorTrain(Energy(), Separate(3, 3)))
    ranks = done.model[0].form.ranks
    sizes = done.model[0].form.modes.sizes
    wide = [1, *ranks, 1]
    assert all(
        after <= before * n and before <= after * n for before, after, n in zip(wide, wide[1:], sizes, strict=False)
    )


@pytest.mark.parametrize("budget", [Macs(0.5), Params(0.5), Macs(0.3), Params(3000)], ids=str)
@pytest.mark.parametrize("rule", [EqualError(), SquaredEnergy()], ids=str)
def test_a_budget_is_met_and_used(budget, rule):
    model, example = build("plain")
    done = compress(model, TensorTrain(rule), budget=budget, example=example)
    report = done.report
    used, dense = (
        (report.macs, report.dense_macs) if isinstance(budget, Macs) else (report.parameters, report.dense_parameters)
    )
    limit = budget.limit(dense)
    assert 0.85 * limit < used <= limit
    assert done.cut.fraction is None
    assert (done.cut.budget.limit, done.cut.budget.reached, done.cut.budget.dense) == (limit, used, dense)


def test_a_budget_that_is_loose_takes_nothing_and_one_that_is_too_tight_is_refused():
    model, example = build("plain")
    assert not TensorTrain().select(model, budget=Macs(1.0), example=example).reduced()
    with pytest.raises(BudgetError, match="at least"):
        TensorTrain().select(model, budget=Params(10), example=example)
    with pytest.raises(ValueError, match="level"):
        TensorTrain(EqualError(0.1)).select(model, budget=Macs(0.5), example=example)


@pytest.mark.parametrize("fraction", [0.1, 0.5])
def test_a_train_that_does_not_pay_stays_dense_and_keeps_its_truncated_weight(fraction):
    done = _only(nn.Linear(16, 16), fraction, TensorTrain(reading=Paired()))
    assert isinstance(done.model[0], nn.Linear)
    assert "would not cost less" in done.report.left_dense["0"]
    assert f"ranks ({done.cut.count('0')},) of (16,)" in done.report.left_dense["0"]
    modes = Paired().modes((16, 16))
    unfolding = modes.fold(done.model[0].weight.detach())
    assert int(torch.linalg.matrix_rank(unfolding, rtol=1e-9)) == done.cut.count("0")


def test_layers_that_no_train_stands_for_are_named():
    model, example = build("special")
    skipped = TensorTrain().select(model, 0.5, example=example).skipped
    assert {"0", "3", "5"} <= set(skipped)
    assert "one group" in skipped["0"]
    tiny = nn.Sequential(nn.Conv2d(1, 1, 1), nn.Linear(5, 3), nn.Linear(3, 2))
    assert TensorTrain(reading=Paired()).select(tiny, 0.5, example=torch.ones(1, 1, 2, 5)).skipped["0"]


def test_a_saved_cut_is_rebuilt_on_other_weights(tmp_path):
    for name, compressor in (("plain", TensorTrain()), ("mlp", TensorTrain(reading=Paired(3)))):
        model, example = build(name, torch.float32)
        done = compress(model, compressor, 0.7, example=example)
        assert any(isinstance(module, TTLinear | TTConv2d) for module in done.model.modules())
        save(done, tmp_path / name)
        again = load(tmp_path / name, lambda name=name: _other(name))
        assert torch.equal(again.eval()(example), done.model.eval()(example))


def _other(name):
    model, _ = build(name, torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()
    return model


def test_a_forged_list_of_atoms_is_refused():
    model, example = build("plain")
    cut = TensorTrain().select(model, 0.5, example=example)
    full = (12, 10)
    assert cut.atoms["4"] == sum(full)
    for kept in (
        5,
        (0, 1, 2),  # nothing of the second bond
        (0, 2, 12, 13),  # not the first ones
        (1, 12),
        (0, *range(12, 22)),  # wider than the window can carry from rank 1
    ):
        forged = replace(cut, kept={**cut.kept, "4": kept})
        assert Cut.from_json(forged.to_json()) == forged
        for method in (TensorTrain().truncate, TensorTrain().realise):
            with pytest.raises(CutError, match="'4'"):
                method(model, forged)


def test_what_was_decomposed_can_be_cut_by_others_or_is_named():
    model, example = build("residual")
    small = compress(model, TensorTrain(), 0.6, example=example).model
    for compressor in (LowRank(), FilterPruning(), UnstructuredPruning(), TensorTrain()):
        again = compress(small, compressor, 0.4, example=example)
        assert again.report.relative_difference < 1e-10
        assert again.report.parameters <= sum(p.numel() for p in small.parameters())


def test_training_goes_on_with_the_optimizer_of_before():
    model, example = build("plain", torch.float32)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    model(example).square().mean().backward()
    optimizer.step()
    cut = TensorTrain().select(model, 0.6, example=example)
    small = TensorTrain().realise(model, cut)
    carried = carry_over(optimizer, model, small, cut).optimizer
    known = {id(p) for group in carried.param_groups for p in group["params"]}
    assert known == {id(p) for p in small.parameters()}
    small(example).square().mean().backward()
    carried.step()


def test_truncating_a_truncated_model_changes_nothing():
    model, example = build("plain")
    for compressor in COMPRESSORS.values():
        cut = compressor.select(model, 0.6, example=example)
        once = compressor.truncate(model, cut)
        twice = compressor.truncate(once, cut)
        for a, b in zip(once.parameters(), twice.parameters(), strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-10)


def test_cores_of_a_compressed_layer_make_the_truncated_weight():
    model, example = build("mlp")
    compressor = TensorTrain(reading=Separate(2, 2))
    cut = compressor.select(model, 0.6, example=example)
    truncated, realised = compressor.truncate(model, cut), compressor.realise(model, cut)
    for name in cut.reduced():
        layer = realised.get_submodule(name)
        weight = layer.form.modes.unfold(contract(tuple(layer.cores)), layer.form.shape)
        torch.testing.assert_close(weight, truncated.get_submodule(name).weight, rtol=0, atol=1e-12)


def test_recipes_know_tensor_trains():
    section = SweepSection(
        compressors=[
            "tensor-train",
            {"type": "tensor-train", "reading": "paired", "rule": "equal-error", "ignore": ["0"]},
        ]
    )
    plain, options = (build_compressor(spec) for spec in section.compressors)
    assert plain == TensorTrain()
    assert options == TensorTrain(EqualError(), Paired(), ignore=("0",))
    assert label_of(section.compressors[1]) == "tensor-train (rule equal-error, reading paired, ignore 0)"
