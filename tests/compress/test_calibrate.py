from __future__ import annotations

import copy

import pytest
import torch
from compressible import build
from torch import nn

from pliant.compress import FilterPruning, Inputs, compress, recalibrate_batchnorm


def _batches(*sizes):
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(n, 4, 5, 5, generator=generator) + n for n in sizes]


@pytest.mark.parametrize("norm", [nn.BatchNorm2d(4), nn.InstanceNorm2d(4, track_running_stats=True)])
def test_statistics_are_the_plain_average_over_batches(norm):
    batches = _batches(3, 5, 2)
    norm.running_mean.fill_(77.0)
    model = recalibrate_batchnorm(nn.Sequential(norm), batches)
    if isinstance(norm, nn.BatchNorm2d):
        means, variances = [b.mean((0, 2, 3)) for b in batches], [b.var((0, 2, 3)) for b in batches]
    else:
        means, variances = [b.mean((0, 2, 3)) for b in batches], [b.var((2, 3)).mean(0) for b in batches]
    torch.testing.assert_close(model[0].running_mean, torch.stack(means).mean(0))
    torch.testing.assert_close(model[0].running_var, torch.stack(variances).mean(0))
    assert torch.equal(norm.running_mean, torch.full((4,), 77.0))


def test_everything_else_is_kept():
    model = nn.Sequential(nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6, momentum=0.3), nn.Dropout(0.9), nn.BatchNorm2d(6))
    model[3].eval()
    before, modes = copy.deepcopy(model.state_dict()), [m.training for m in model.modules()]
    first = recalibrate_batchnorm(model, _batches(4, 4))
    second = recalibrate_batchnorm(model, _batches(4, 4))
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name])  # dropout was off
        assert "running" in name or "tracked" in name or torch.equal(tensor, before[name])
    assert [m.training for m in first.modules()] == modes == [m.training for m in model.modules()]
    assert first[1].momentum == 0.3
    assert all(p.grad is None for p in first.parameters())


def test_it_needs_a_batch_but_only_if_there_are_statistics():
    with pytest.raises(ValueError, match="at least one batch"):
        recalibrate_batchnorm(nn.BatchNorm2d(4), [])
    assert isinstance(recalibrate_batchnorm(nn.Sequential(nn.Linear(2, 2)), []), nn.Sequential)
    plain = nn.BatchNorm2d(4, track_running_stats=False)
    assert recalibrate_batchnorm(plain, []).running_mean is None


def test_inputs_drop_labels_and_can_be_iterated_again():
    inputs = Inputs([(torch.ones(2), torch.zeros(2)), (torch.ones(3), torch.zeros(3))])
    assert [len(x) for x in inputs] == [len(x) for x in inputs] == [2, 3]


def test_a_recalibrated_cut_is_still_exact():
    model, example = build("plain")
    done = compress(model, FilterPruning(), 0.5, example=example, calibrate=[example, example * 2])
    assert done.report.recalibrated
    assert done.report.relative_difference < 1e-10
    assert not torch.equal(done.model[1].running_mean, model[1].running_mean[list(done.cut.kept["0"])])


def test_batches_with_labels_say_what_to_do():
    pairs = [(batch, torch.zeros(len(batch))) for batch in _batches(4)]
    model = nn.Sequential(nn.BatchNorm2d(4))
    with pytest.raises(TypeError) as caught:
        recalibrate_batchnorm(model, pairs)
    assert "Inputs(batches)" in caught.value.__notes__[0]
    recalibrate_batchnorm(model, Inputs(pairs))
