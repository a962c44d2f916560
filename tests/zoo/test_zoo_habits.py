"""Habits of real code that broke a cut once, in nets of a few lines."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pliant.compress import FilterPruning, Layers, LowRank
from pliant.testing import check_compressor


class Heads(nn.Module):
    """Attention whose projections are wrapped once more, with a learnt bias per head that is cached for evaluation."""

    def __init__(self):
        super().__init__()
        self.num_heads, self.val_attn_dim = 4, 16
        self.qkv, self.proj = nn.Sequential(nn.Linear(12, 48)), nn.Sequential(nn.Linear(16, 12))
        self.bias, self.cache = nn.Parameter(torch.randn(4)), {}

    def train(self, mode=True):
        super().train(mode)
        if mode:
            self.cache = {}
        return self

    def scaled(self):
        if self.training:
            return self.bias * 2
        if "bias" not in self.cache:
            self.cache["bias"] = self.bias * 2
        return self.cache["bias"]

    def forward(self, x):
        q, k, v = self.qkv(x).view(*x.shape[:2], self.num_heads, -1).split([4, 4, 4], dim=3)
        scores = torch.einsum("bnhd,bmhd->bhnm", q, k) + self.scaled()[:, None, None]
        mixed = torch.einsum("bhnm,bmhd->bnhd", scores.softmax(-1), v)
        return x + self.proj(mixed.reshape(*x.shape[:2], self.val_attn_dim))


class Reader(nn.Module):
    """Reads numbers and tensors off its layers."""

    def __init__(self, *, weight):
        super().__init__()
        self.conv, self.last, self.weight = nn.Conv1d(6, 10, 3, stride=2), nn.Conv1d(10, 3, 1), weight

    def forward(self, x):
        if x.shape[-1] % self.conv.stride[0]:
            raise ValueError("odd")
        return self.last(F.relu(self.conv(x.to(self.conv.weight.dtype) if self.weight else x)))


class Halves(nn.Module):
    """Uses one half of a bias."""

    def __init__(self):
        super().__init__()
        self.first, self.bias, self.last = nn.Linear(6, 8, bias=False), nn.Parameter(torch.randn(8)), nn.Linear(8, 3)

    def forward(self, x):
        bias = self.bias.clone()
        bias[4:].zero_()
        return self.last(F.relu(F.linear(x, self.first.weight, bias)))


@pytest.mark.parametrize("net", [Heads, Halves])
def test_caches_and_outer_head_counts_and_half_biases_are_cut_exactly(net):
    torch.manual_seed(0)
    model = nn.Sequential(net(), nn.Linear(12 if net is Heads else 3, 2)).double()
    example = torch.randn(3, 5, 12 if net is Heads else 6, dtype=torch.float64)
    with torch.no_grad():
        model.eval()(example)  # fills the cache
    compressor = FilterPruning(layers=Layers.ALL)
    check_compressor(compressor, model, example)
    cut = compressor.select(model, 0.5, example=example)
    assert cut.parameters < cut.dense_parameters


def test_heads_that_are_counted_two_modules_up_go_whole():
    model, example = nn.Sequential(Heads(), nn.Linear(12, 2)), torch.randn(3, 5, 12)
    cut = FilterPruning(layers=Layers.ALL).select(model, 0.5, example=example)
    small = FilterPruning(layers=Layers.ALL).realise(model, cut)
    assert (small[0].num_heads, small[0].val_attn_dim) == (2, 8)


def test_select_does_not_even_fill_a_cache_of_the_model():
    torch.manual_seed(0)
    model, example = nn.Sequential(Heads(), nn.Linear(12, 2)).eval(), torch.randn(3, 5, 12)
    cut = FilterPruning(layers=Layers.ALL).select(model, 0.5, example=example)
    assert cut.reduced()
    assert not model[0].cache


def test_frozen_batch_norm_of_torchvision_goes_with_its_channels():
    norm = pytest.importorskip("torchvision").ops.FrozenBatchNorm2d
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), norm(8), nn.ReLU(), nn.Conv2d(8, 6, 3), norm(6), nn.ReLU(), nn.Flatten())
    model = nn.Sequential(model, nn.Linear(96, 3)).double()
    for buffer in model.buffers():
        nn.init.uniform_(buffer, 0.5, 2.0)
    example = torch.randn(2, 3, 8, 8).double()
    check_compressor(FilterPruning(), model, example, fractions=(0.5,))
    assert set(FilterPruning().select(model, 0.5, example=example).reduced()) == {"0.0", "0.3"}


def test_numbers_can_be_read_off_a_decomposed_layer_but_its_weight_keeps_it_whole():
    example = torch.randn(2, 6, 20)
    check_compressor(LowRank(), Reader(weight=False), example)
    assert "conv" in LowRank().select(Reader(weight=False), 0.8, example=example).reduced()
    cut = LowRank().select(Reader(weight=True), 0.8, example=example)
    assert "read by another module" in cut.skipped["conv"]
