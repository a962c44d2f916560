"""Attention with fewer heads computes what torch's own module computes."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from pliant.compress import FilterPruning, Layers
from pliant.compress.attention import PrunedAttention

OPTIONS = {
    "plain": {},
    "without bias": {"bias": False},
    "tokens first": {"batch_first": False},
    "other widths": {"kdim": 5, "vdim": 7},
    "learnt key": {"add_bias_kv": True},
    "zero key": {"add_zero_attn": True},
    "dropout": {"dropout": 0.4},
}


def _attention(options):
    torch.manual_seed(0)
    module = nn.MultiheadAttention(12, 3, **{"batch_first": True} | options).double().eval()
    for parameter in module.parameters():
        nn.init.normal_(parameter)
    widths = (12, options.get("kdim", 12), options.get("vdim", 12))
    lengths = (4, 6, 6)
    tokens = [torch.randn(2, n, w).double() for n, w in zip(lengths, widths, strict=True)]
    return module, tokens if module.batch_first else [x.transpose(0, 1) for x in tokens]


MASKS = {
    "none": dict,
    "booleans": lambda: {"attn_mask": torch.ones(4, 6, dtype=torch.bool).triu(3)},
    "numbers": lambda: {"attn_mask": torch.randn(4, 6).double()},
    "one per head": lambda: {"attn_mask": torch.randn(6, 4, 6).double()},
    "padding": lambda: {"key_padding_mask": torch.tensor([[False] * 6, [False] * 4 + [True] * 2])},
    "both": lambda: {
        "attn_mask": torch.ones(4, 6, dtype=torch.bool).triu(3),
        "key_padding_mask": torch.tensor([[False] * 6, [False] * 4 + [True] * 2]),
    },
}


@pytest.mark.parametrize(("option", "mask"), list(itertools.product(OPTIONS, MASKS)))
@pytest.mark.parametrize("weights", ["none", "mean", "each"])
def test_with_all_heads_it_is_torch_s_own(option, mask, weights):
    module, tokens = _attention(OPTIONS[option])
    call = MASKS[mask]() | {"need_weights": weights != "none", "average_attn_weights": weights == "mean"}
    expected, shown = module(*tokens, **call)
    found, found_shown = PrunedAttention(module)(*tokens, **call)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    assert (found_shown is None) == (shown is None)
    if shown is not None:
        torch.testing.assert_close(found_shown, shown, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("first", [True, False])
def test_a_single_sample_needs_no_batch(first):
    module, tokens = _attention({"batch_first": first})
    single = [x[0] if first else x[:, 0] for x in tokens]
    for found, expected in zip(PrunedAttention(module)(*single), module(*single), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


def test_a_causal_call_looks_at_nothing_that_comes_later():
    module, (query, *_) = _attention({})
    mask = nn.Transformer.generate_square_subsequent_mask(4).double()
    expected, _ = module(query, query, query, attn_mask=mask, need_weights=False, is_causal=True)
    found, _ = PrunedAttention(module)(query, query, query, attn_mask=mask, need_weights=False, is_causal=True)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


class _Masked(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.TransformerEncoder(
            nn.TransformerEncoderLayer(12, 3, 20, batch_first=True, dropout=0.0), 2, enable_nested_tensor=False
        )
        self.head = nn.Linear(12, 3)

    def forward(self, x, padding):
        return self.head(self.encoder(x, src_key_padding_mask=padding))


def test_heads_that_a_padding_mask_is_copied_for_stay_and_the_rest_is_cut_exactly():
    torch.manual_seed(0)
    model = _Masked().double().eval()
    example = (torch.randn(2, 5, 12).double(), torch.tensor([[False] * 5, [False] * 3 + [True] * 2]))
    compressor = FilterPruning(layers=Layers.ALL)
    cut = compressor.select(model, 0.5, example=example)
    assert "encoder.layers.0.self_attn.in_proj_weight" in cut.skipped
    assert "encoder.layers.0.linear1" in cut.kept
    with torch.no_grad():
        truncated, realised = (
            m.eval()(*example) for m in (compressor.truncate(model, cut), compressor.realise(model, cut))
        )
    shown = ~example[1]
    torch.testing.assert_close(realised[shown], truncated[shown], rtol=1e-10, atol=1e-10)
