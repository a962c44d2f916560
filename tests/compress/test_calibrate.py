from __future__ import annotations

import copy

import pytest
import torch
from compressible import build
from torch import nn

from pliant.compress import FilterPruning, Inputs, Layers, compress, recalibrate_batchnorm


def _batches(*sizes):
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(n, 4, 5, 5, generator=generator) + n for n in sizes]


VARIANTS = {
    "BatchNorm1d": (nn.BatchNorm1d(4), (4,)),
    "BatchNorm1d on sequences": (nn.BatchNorm1d(4, momentum=0.7), (4, 6)),
    "BatchNorm2d": (nn.BatchNorm2d(4, momentum=None), (4, 5, 3)),
    "BatchNorm3d": (nn.BatchNorm3d(4, affine=False), (4, 3, 2, 2)),
    "SyncBatchNorm": (nn.SyncBatchNorm(4), (4, 5, 5)),
    "InstanceNorm1d": (nn.InstanceNorm1d(4, track_running_stats=True), (4, 7)),
    "InstanceNorm2d": (nn.InstanceNorm2d(4, affine=True, track_running_stats=True), (4, 5, 3)),
    "InstanceNorm3d": (nn.InstanceNorm3d(4, track_running_stats=True), (4, 3, 2, 2)),
}


@pytest.mark.parametrize(("norm", "shape"), VARIANTS.values(), ids=VARIANTS)
def test_statistics_are_the_average_over_batches_by_what_they_hold(norm, shape):
    generator = torch.Generator().manual_seed(3)
    batches = [torch.randn(n, *shape, generator=generator) * n + n for n in (3, 5, 2)]
    norm.running_mean.fill_(77.0)
    norm.running_var.fill_(77.0)
    before = copy.deepcopy(norm.state_dict())
    done = recalibrate_batchnorm(nn.Sequential(norm), batches)[0]
    rows = [batch.transpose(0, 1).flatten(1) for batch in batches]
    torch.testing.assert_close(done.running_mean, torch.cat(rows, 1).mean(1))
    if isinstance(norm, nn.modules.instancenorm._InstanceNorm):
        within = [batch.flatten(2).var(-1).mean(0) for batch in batches]
    else:
        within = [row.var(1) for row in rows]
    expected = sum(n * variance for n, variance in zip((3, 5, 2), within, strict=True)) / 10
    torch.testing.assert_close(done.running_var, expected)
    assert done.momentum == norm.momentum
    assert all(torch.equal(tensor, norm.state_dict()[name]) for name, tensor in before.items())


def test_equal_batches_give_what_torch_calls_a_cumulative_average():
    batches, twin = _batches(4, 4, 4), nn.BatchNorm2d(4, momentum=None)
    for batch in batches:
        twin(batch)
    done = recalibrate_batchnorm(nn.BatchNorm2d(4), batches)
    torch.testing.assert_close(done.running_mean, twin.running_mean)
    torch.testing.assert_close(done.running_var, twin.running_var)


class _Branches(nn.Module):
    """One norm is called twice, the other only in training."""

    def __init__(self):
        super().__init__()
        self.twice = nn.BatchNorm2d(4)
        self.never = nn.BatchNorm2d(4)
        nn.init.constant_(self.never.running_var, 5.0)

    def forward(self, x):
        return self.never(x) if self.training else self.twice(x) + self.twice(3 * x)


def test_a_norm_that_no_batch_reaches_keeps_its_statistics_and_one_that_is_used_twice_sees_both():
    (batch,) = _batches(6)
    done = recalibrate_batchnorm(_Branches(), [batch])
    torch.testing.assert_close(done.twice.running_mean, 2 * batch.mean((0, 2, 3)))
    assert torch.equal(done.never.running_var, torch.full((4,), 5.0))
    assert done.never.num_batches_tracked == 0


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


def test_inputs_are_tensors_and_mappings_too():
    one, labels = torch.ones(4, 2), torch.zeros(4)
    assert [x.shape for x in Inputs([one, one])] == [(4, 2), (4, 2)]
    (mapping,) = Inputs([{"x": one, "labels": labels}])
    assert list(mapping) == ["x"]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_batches_with_undefined_numbers_are_refused_by_the_layer_that_reads_them(bad):
    model, example = build("plain")
    wrong = example.clone()
    wrong[0, 0] = bad
    with pytest.raises(ValueError, match="norm layer '1' reads infinite or undefined numbers"):
        compress(model, FilterPruning(), 0.5, example=example, calibrate=[example, wrong])


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


@pytest.mark.parametrize("repair", ["calibrate", "reconstruct"])
def test_batches_of_one_sample_are_refused_by_the_norm_that_cannot_take_them(repair):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 16), nn.BatchNorm1d(16), nn.Linear(16, 3)).eval()
    samples, pruning = torch.randn(6, 8), FilterPruning(layers=Layers.ALL)
    message = "batches: norm layer '3' must read several values per channel of every batch, found one: give batches of"
    with pytest.raises(ValueError, match=message):
        compress(model, pruning, 0.5, example=samples, **{repair: list(samples.split(1))})
    compress(model, pruning, 0.5, example=samples, **{repair: list(samples.split(2))})
