"""Attention with fewer heads, and that of separate layers, computes what torch's own module computes."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from pliant.compress import FilterPruning, Layers
from pliant.structure.attention import PrunedAttention
from pliant.structure.separate_attention import SeparateAttention
from pliant.testing import check_compressor

KINDS = (PrunedAttention, SeparateAttention)
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


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("option", "mask"), list(itertools.product(OPTIONS, MASKS)))
@pytest.mark.parametrize("weights", ["none", "mean", "each"])
def test_with_all_heads_it_is_torch_s_own(kind, option, mask, weights):
    module, tokens = _attention(OPTIONS[option])
    call = MASKS[mask]() | {"need_weights": weights != "none", "average_attn_weights": weights == "mean"}
    expected, shown = module(*tokens, **call)
    found, found_shown = kind(module)(*tokens, **call)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    assert (found_shown is None) == (shown is None)
    if shown is not None:
        torch.testing.assert_close(found_shown, shown, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("first", [True, False])
def test_a_single_sample_needs_no_batch(kind, first):
    module, tokens = _attention({"batch_first": first})
    single = [x[0] if first else x[:, 0] for x in tokens]
    for found, expected in zip(kind(module)(*single), module(*single), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("kind", KINDS)
def test_a_causal_call_looks_at_nothing_that_comes_later(kind):
    module, (query, *_) = _attention({})
    mask = nn.Transformer.generate_square_subsequent_mask(4).double()
    expected, _ = module(query, query, query, attn_mask=mask, need_weights=False, is_causal=True)
    found, _ = kind(module)(query, query, query, attn_mask=mask, need_weights=False, is_causal=True)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


class Encoder(nn.Module):
    """A transformer with padded inputs, and a head that reads all places, the padded ones too."""

    def __init__(self, **options):
        super().__init__()
        layer = nn.TransformerEncoderLayer(12, 4, 20, batch_first=True, dropout=0.0)
        self.encoder = nn.TransformerEncoder(layer, 2, **options)
        self.head = nn.Linear(12, 3)

    def forward(self, x, padding):
        return self.head(self.encoder(x, src_key_padding_mask=padding))


class Causal(Encoder):
    def forward(self, x, padding):
        mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1], dtype=x.dtype)
        return self.head(self.encoder(x, mask, padding.to(x.dtype).masked_fill(padding, float("-inf"))))


class Cross(nn.Module):
    """Attention to another sequence, padded, with a mask of numbers that is learnt."""

    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(12, 4, kdim=7, vdim=7, add_bias_kv=True)
        self.bias = nn.Parameter(torch.randn(5, 6))
        self.head = nn.Linear(12, 3)

    def forward(self, x, padding, other):
        x, other = x.transpose(0, 1), other.transpose(0, 1)
        hidden = padding.to(x.dtype) * -3.0
        return self.head(self.attention(x, other, other, hidden, attn_mask=self.bias)[0])


PADDED = torch.tensor([[False] * 5, [False] * 3 + [True] * 2])


def masked(kind, **options):
    torch.manual_seed(0)
    example = (torch.randn(2, 5, 12).double(), PADDED)
    if kind is Cross:
        example = (example[0], torch.cat((PADDED, PADDED[:, -1:]), 1), torch.randn(2, 6, 7).double())
    return kind(**options).double().eval(), example


# The shortcut of torch's encoder makes nested tensors of padded ones.
NESTED = pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
MASKED = {
    "shortcut": (Encoder, {}),
    "no shortcut": (Encoder, {"enable_nested_tensor": False}),
    "causal": (Causal, {"enable_nested_tensor": False}),
    "cross": (Cross, {}),
}


@NESTED
@pytest.mark.parametrize("name", MASKED)
def test_heads_behind_masks_are_cut_exactly(name):
    kind, options = MASKED[name]
    model, example = masked(kind, **options)
    compressor = FilterPruning(layers=Layers.ALL)
    check_compressor(compressor, model, example)
    cut = compressor.select(model, 0.5, example=example)
    heads = [layer for layer in cut.reduced() if "in_proj" in layer or "_proj_weight" in layer]
    assert len(heads) == (1 if kind is Cross else 2)
    assert all(cut.count(layer) == 2 for layer in heads)


@NESTED
def test_the_shortcut_of_a_padded_encoder_writes_the_same_zeros():
    model, example = masked(Encoder)
    compressor = FilterPruning(layers=Layers.ALL)
    cut = compressor.select(model, 0.5, example=example)
    with torch.no_grad():
        truncated, realised = (m(*example) for m in (compressor.truncate(model, cut), compressor.realise(model, cut)))
    assert torch.equal(truncated[PADDED], model.head.bias.detach().expand(2, 3))
    torch.testing.assert_close(realised, truncated, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("kind", KINDS)
@NESTED
def test_nested_tensors_are_attended_to_one_by_one(kind):
    module, _ = _attention({})
    samples = [torch.randn(n, 12).double() for n in (4, 1, 3)]
    nested = torch.nested.as_nested_tensor(samples)
    found, shown = kind(module)(nested, nested, nested, need_weights=False)
    assert shown is None
    for sample, one in zip(samples, found.unbind(), strict=True):
        expected, _ = module(sample, sample, sample)
        torch.testing.assert_close(one, expected, rtol=1e-10, atol=1e-10)
    with pytest.raises(ValueError, match="key_padding_mask instead"):
        kind(module)(nested, nested, nested)


class PerHead(nn.Module):
    """A mask for each head, of a number of heads that nobody writes back."""

    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(12, 4, batch_first=True)
        self.up, self.head = nn.Linear(12, 20), nn.Linear(20, 3)

    def forward(self, x):
        mask = torch.ones(4 * len(x), x.shape[1], x.shape[1], dtype=torch.bool).triu(1)
        return self.head(self.up(self.attention(x, x, x, attn_mask=mask)[0]).relu())


def test_heads_with_a_mask_each_stay_by_name_and_the_rest_is_cut_exactly():
    torch.manual_seed(0)
    model, example = PerHead().double(), torch.randn(2, 5, 12).double()
    compressor = FilterPruning(layers=Layers.ALL)
    check_compressor(compressor, model, example)
    cut = compressor.select(model, 0.5, example=example)
    assert set(cut.reduced()) == {"up", "attention.out_proj"}
    assert "it meets a tensor of fixed width" in cut.skipped["attention.in_proj_weight"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("parts", [1, 4, 12])
def test_a_mask_with_another_number_of_heads_is_refused_by_name(kind, parts):
    module, (query, *_) = _attention({})
    mask = torch.zeros(parts, 4, 4).double()
    with pytest.raises(ValueError, match=r"2 samples times the 3 heads that are left, found \d+ parts"):
        kind(module)(query, query, query, attn_mask=mask)
