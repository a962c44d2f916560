from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pliant.metrics import Size, accuracy, count_macs, evaluate_loss, relative_distance, size
from pliant.metrics.size import macs_by_module


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


def bilinear_by_hand(x1, weight, x2):
    return torch.einsum("bi,oij,bj->bo", x1, weight, x2)


def grouped(a, b):
    ends = torch.tensor([8, a.shape[0] if a.ndim == 2 else b.shape[1]], dtype=torch.int32, device=a.device)
    return torch._grouped_mm(a.bfloat16(), b.bfloat16(), offs=ends)


@pytest.mark.parametrize(
    ("operator", "shapes", "macs"),
    [
        (F.bilinear, [(2, 3), (2, 5), (4, 3, 5)], 2 * 4 * (3 * 5 + 5)),
        (F.bilinear, [(2, 6, 3), (2, 6, 5), (4, 3, 5)], 12 * 4 * (3 * 5 + 5)),
        (bilinear_by_hand, [(2, 3), (4, 3, 5), (2, 5)], 2 * 4 * (3 * 5 + 5)),
        (torch.matmul, [(3, 4), (4,)], 12),
        (torch.matmul, [(4,), (4, 3)], 12),
        (torch.matmul, [(4,), (4,)], 4),
        (torch.vdot, [(4,), (4,)], 4),
        (torch.addmv, [(3,), (3, 4), (4,)], 12),
        (torch.addr, [(3, 4), (3,), (4,)], 12),
        (torch.addbmm, [(3, 5), (2, 3, 4), (2, 4, 5)], 120),
        (torch.baddbmm, [(2, 3, 5), (2, 3, 4), (2, 4, 5)], 120),
        (torch.cdist, [(3, 8), (4, 8)], 96),
        (torch.cdist, [(30, 8), (40, 8)], 9600),
        (torch.cdist, [(2, 1, 3, 8), (5, 4, 8)], 960),
        (lambda a, b: torch.cdist(a, b, p=1.0), [(3, 8), (4, 8)], 0),
        (torch.conv_tbc, [(5, 2, 3), (3, 3, 4), (4,)], 3 * 2 * 4 * 9),
        (lambda x, w, b: torch.conv_tbc(x, w, b, 1), [(5, 2, 3), (3, 3, 4), (4,)], 5 * 2 * 4 * 9),
        (lambda a, b: torch._int_mm(a.to(torch.int8), b.to(torch.int8)), [(32, 16), (16, 24)], 32 * 16 * 24),
        (torch._addmm_activation, [(5,), (3, 4), (4, 5)], 60),
        (grouped, [(32, 16), (2, 16, 24)], 32 * 16 * 24),
        (grouped, [(2, 32, 16), (16, 24)], 32 * 16 * 24),
        (lambda a, b: torch._grouped_mm(a.bfloat16(), b.bfloat16()), [(2, 32, 16), (2, 16, 24)], 2 * 32 * 16 * 24),
        (F.scaled_dot_product_attention, [(2, 3, 5, 8), (2, 3, 7, 8), (2, 3, 7, 4)], 6 * 5 * 7 * (8 + 4)),
        (lambda a, b: torch.einsum("bij,bjk->bik", a, b), [(2, 3, 4), (2, 4, 5)], 120),
        (lambda a, b: torch.einsum("bi,bi->b", a, b), [(2, 3), (2, 3)], 6),
        (torch.inner, [(3, 4), (5, 4)], 60),
        (lambda a, b: torch.tensordot(a, b, 2), [(2, 3, 4), (3, 4, 5)], 120),
        (F.conv_transpose2d, [(1, 4, 5, 5), (4, 6, 3, 3)], 25 * 4 * 6 * 9),
        (torch.mul, [(3, 4), (3, 4)], 0),
        (lambda table: F.embedding(torch.tensor([0, 2]), table), [(4, 5)], 0),
    ],
)
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_every_operator_that_multiplies_and_adds_counts(operator, shapes, macs, device):
    class Operator(nn.Module):
        def forward(self, *tensors):
            return operator(*tensors)

    assert count_macs(Operator(), tuple(torch.randn(shape, device=device) for shape in shapes)) == macs


def test_a_bilinear_layer_counts_for_itself():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.form, self.last = nn.Bilinear(3, 5, 4), nn.Linear(4, 2)

        def forward(self, x1, x2):
            return self.last(self.form(x1, x2))

    assert macs_by_module(Net(), (torch.randn(2, 3), torch.randn(2, 5))) == {"": 0, "form": 160, "last": 16}


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
