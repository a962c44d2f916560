from __future__ import annotations

import copy

import pytest
import torch
from compressible import build
from torch import nn

from pliant.compress import (
    FilterPruning,
    LowRank,
    UnstructuredPruning,
    compress,
    match_variance,
    output_difference,
    reconstruct,
)
from pliant.models import create

COMPRESSORS = [FilterPruning(), LowRank(), UnstructuredPruning()]


def _plain():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.ConvTranspose2d(8, 6, 3, groups=2), nn.Tanh(),
        nn.Conv2d(6, 8, 3, groups=2, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 10), nn.ReLU(),
        nn.Linear(10, 5),
    ).double()  # fmt: skip


def _batches():
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(n, 3, 6, 6, generator=generator, dtype=torch.float64) + 1 for n in (40, 25)]


def _statistics(model, layer, batches):
    found = []
    handle = model[layer].register_forward_hook(lambda _, __, output: found.append(output.detach()))
    for batch in batches:
        model(batch)
    handle.remove()
    rows = torch.cat([output.transpose(0, 1).flatten(1) for output in found], 1)
    return rows.mean(1), rows.var(1)


def test_under_autocast_layers_see_what_is_repaired_before_them():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3))
    # Two sizes make no one batch: the models run again for every layer.
    batches = [torch.randn(20, 3, size, size) for size in (9, 10)]
    cut = FilterPruning().select(model, 0.5, example=batches[0])
    truncated = FilterPruning().truncate(model, cut)
    for repair in (match_variance, lambda model, whole, batches: reconstruct(model, whole, cut, batches)):
        found = []
        for cached in (True, False):
            with torch.autocast("cpu", torch.bfloat16, cache_enabled=cached):
                found.append(repair(truncated, model, batches).state_dict())
        assert all(torch.equal(value, found[1][name]) for name, value in found[0].items())
        assert not torch.equal(found[0]["4.weight"], truncated[4].weight)


@pytest.mark.parametrize("compressor", COMPRESSORS, ids=lambda c: type(c).__name__)
def test_means_and_variances_are_those_before_the_cut(compressor):
    model, batches = _plain(), _batches()
    cut = compressor.select(model, 0.5, example=batches[0])
    truncated = compressor.truncate(model, cut)
    before = copy.deepcopy(truncated.state_dict())
    repaired = match_variance(truncated, model, batches)
    for layer in (0, 2, 4, 7, 9):
        statistics = [_statistics(each, layer, batches) for each in (model, truncated, repaired)]
        (mean, variance), (_, cut_variance), (found_mean, found_variance) = statistics
        alive = cut_variance > 1e-12  # neither removed nor fed by removed channels alone
        assert alive.any()
        torch.testing.assert_close(found_variance[alive], variance[alive])
        if truncated[layer].bias is not None:
            torch.testing.assert_close(found_mean[alive], mean[alive])
        assert (found_variance[~alive] < 1e-12).all()
    assert all(torch.equal(tensor, truncated.state_dict()[name]) for name, tensor in before.items())


@pytest.mark.parametrize("compressor", COMPRESSORS, ids=lambda c: type(c).__name__)
@pytest.mark.parametrize("name", ["plain", "residual", "attention", "special", "transposed", "conv1d"])
def test_the_realised_model_is_the_repaired_one(compressor, name):
    model, example = build(name)
    cut = compressor.select(model, 0.5, example=example)
    repaired = match_variance(compressor.truncate(model, cut), model, [example])
    difference, largest = output_difference(repaired, compressor.realise(repaired, cut), example)
    assert difference <= 1e-10 * largest


@pytest.mark.parametrize("compressor", COMPRESSORS, ids=lambda c: type(c).__name__)
def test_both_repairs_compose_in_compress(compressor):
    model, example = build("plain")
    done = compress(model, compressor, 0.5, example=example, repair=[example], calibrate=[example])
    assert done.report.relative_difference < 1e-10
    assert done.report.repaired
    assert done.report.recalibrated
    raw = compress(model, compressor, 0.5, example=example)
    assert not raw.report.repaired
    assert output_difference(raw.model, done.model, example)[0] > 0


def test_an_uncut_model_stays_as_it_is():
    model, batches = _plain(), _batches()
    repaired = match_variance(model, model, batches)
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(repaired.state_dict()[name], tensor, rtol=1e-9, atol=1e-12)


def test_layers_with_a_batch_norm_behind_them_are_left_to_it():
    model, example = build("plain")
    cut = UnstructuredPruning().select(model, 0.5, example=example)
    truncated = UnstructuredPruning().truncate(model, cut)
    repaired = match_variance(truncated, model, [example])
    assert torch.equal(repaired[0].weight, truncated[0].weight)
    assert not torch.equal(repaired[8].weight, truncated[8].weight)


def test_shared_weights_are_left_alone_and_a_transformer_is_repaired():
    torch.manual_seed(0)
    vit = create("vit", num_classes=10, in_channels=1, image_size=8).eval()
    x = torch.randn(16, 1, 8, 8)
    cut = FilterPruning().select(vit, 0.3, example=x)
    truncated = FilterPruning().truncate(vit, cut)
    assert output_difference(match_variance(truncated, vit, [x]), truncated, x)[0] > 0
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    model[2].weight = model[0].weight
    damaged = copy.deepcopy(model)
    with torch.no_grad():
        damaged[0].weight[0, 0] = 0.0
    repaired = match_variance(damaged, model, [torch.randn(30, 4)])
    assert torch.equal(repaired[0].weight, damaged[0].weight)
    assert repaired[2].weight is repaired[0].weight


def test_what_is_not_truncated_is_refused_by_name():
    model, example = build("plain")
    small = FilterPruning().realise(model, FilterPruning().select(model, 0.5, example=example))
    with pytest.raises(ValueError, match=r"'0\.weight' differs.*Repair what truncate returns"):
        match_variance(small, model, [example])
    with pytest.raises(ValueError, match="at least one batch"):
        match_variance(model, model, [])
