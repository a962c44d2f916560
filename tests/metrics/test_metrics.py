from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pliant.metrics import Size, accuracy, count_macs, evaluate_loss, relative_distance, size


class _Dropping(nn.Module):
    def __init__(self):
        super().__init__()
        self.drop = nn.Dropout(0.5)

    def forward(self, x):
        return self.drop(x)


def _batches():
    scores = torch.eye(3).repeat(4, 1)
    labels = torch.tensor([0, 1, 2, 0, 1, 2, 0, 1, 2, 1, 2, 0])
    return [(scores[:7], labels[:7]), (scores[7:], labels[7:])]


def test_accuracy_counts_samples_not_batches():
    assert accuracy(nn.Identity(), _batches()) == 9 / 12


def test_loss_is_the_mean_over_samples():
    scores, labels = (torch.cat(parts) for parts in zip(*_batches(), strict=True))
    assert evaluate_loss(nn.Identity(), _batches()) == pytest.approx(F.cross_entropy(scores, labels).item())


def test_modes_are_given_back_and_used():
    model = nn.Sequential(_Dropping(), _Dropping().eval())
    assert accuracy(model, _batches()) == 9 / 12
    assert [m.training for m in model.modules()] == [True, True, True, False, False]


def test_modes_are_given_back_after_an_error():
    model = nn.Linear(2, 2).train()
    with pytest.raises(RuntimeError):
        accuracy(model, [(torch.zeros(1, 5), torch.zeros(1))])
    assert model.training


@pytest.mark.parametrize("measure", [accuracy, evaluate_loss])
def test_no_samples_are_an_error(measure):
    with pytest.raises(ValueError, match="at least one sample"):
        measure(nn.Identity(), [])


@pytest.mark.parametrize(
    ("layer", "shape", "macs"),
    [
        (nn.Conv2d(1, 32, 3), (1, 1, 28, 28), 194_688),
        (nn.Conv2d(8, 8, 3, groups=8, padding=1), (1, 8, 4, 4), 1_152),
        (nn.Linear(10, 4), (6, 10), 240),
        (nn.Linear(10, 4), (2, 3, 10), 240),
        (nn.ConvTranspose2d(4, 6, 3, groups=2), (1, 4, 5, 5), 25 * 4 * 3 * 9),
        (nn.Conv1d(2, 3, 5), (2, 2, 9), 2 * 5 * 30),
        (nn.Conv3d(2, 3, 2), (1, 2, 3, 3, 3), 8 * 48),
    ],
    ids=str,
)
def test_macs_are_those_of_the_executed_layer(layer, shape, macs):
    assert size(layer, torch.randn(shape)).macs == macs


@pytest.mark.parametrize("frozen", [False, True])
def test_attention_is_counted_in_full(frozen):
    model = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval().requires_grad_(not frozen)
    projections, mlp, attention = 4 * 8 * 8, 2 * 8 * 16, 2 * 5 * 8
    assert size(model, torch.randn(3, 5, 8)).macs == 3 * 5 * (projections + mlp + attention)
    assert torch.backends.mha.get_fastpath_enabled()


def test_size_counts_entries_bytes_and_zeros():
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)).half()
    nn.init.zeros_(model[0].weight)
    found = size(model.float(), torch.randn(2, 4))
    assert found == Size(parameters=21, nonzero=int(model[0].bias.count_nonzero()) + 3, macs=24, bytes=4 * 27 + 8)
    assert model.training


def test_shared_weights_count_once():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight = model[0].weight
    assert size(model, torch.randn(1, 4)).parameters == 24


def test_relative_distance_is_the_share_of_the_norm_that_a_cut_removes():
    model, cut = nn.Linear(2, 1, bias=False), nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[3.0, 4.0]]))
        cut.weight.copy_(torch.tensor([[0.0, 4.0]]))
    assert relative_distance(model, cut) == pytest.approx(0.6)
    assert relative_distance(model, model) == 0.0
    with pytest.raises(ValueError, match="truncate"):
        relative_distance(model, nn.Linear(3, 1, bias=False))


@pytest.mark.parametrize(("kind", "gates"), [(nn.LSTM, 4), (nn.GRU, 3), (nn.RNN, 1)])
def test_recurrent_layers_count_though_they_run_fused(kind, gates):
    layer, example = kind(5, 7, bias=False), torch.randn(3, 2, 5)
    assert count_macs(layer, example) == 3 * 2 * gates * 7 * (5 + 7)
    assert torch.backends.mkldnn.enabled == torch.backends.mkldnn.is_available()
