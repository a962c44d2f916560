"""Attention made of layers of its own: the same function, and layers that plans constrain and cuts decompose."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

import pliant
from pliant import (
    FilterPruning,
    Free,
    LowRank,
    Plan,
    TensorTrain,
    UnstructuredPruning,
    compress,
    separate_attention,
)
from pliant.compress import Layers
from pliant.structure.separate_attention import SeparateAttention
from pliant.testing import check_compressor


class Encoder(nn.Module):
    def __init__(self, **options):
        super().__init__()
        torch.manual_seed(0)
        layer = nn.TransformerEncoderLayer(12, 4, 40, **{"batch_first": True} | options)
        self.encoder = nn.TransformerEncoder(layer, 2)
        self.head = nn.Linear(12, 3)

    def forward(self, x, padding=None):
        return self.head(self.encoder(x, src_key_padding_mask=padding))


class Decoder(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.both = nn.Transformer(12, 4, 1, 1, 40, batch_first=True)
        self.cross = nn.MultiheadAttention(12, 4, kdim=7, vdim=5, batch_first=True, bias=False)
        self.head = nn.Linear(12, 3)

    def forward(self, x, padding=None):
        y = self.both(x, x, src_key_padding_mask=padding, memory_key_padding_mask=padding)
        return self.head(y + self.cross(y, x[..., :7], x[..., :5])[0])


PADDED = torch.tensor([[False] * 5, [False] * 3 + [True] * 2])
MODELS = {"encoder": Encoder, "norm first": lambda: Encoder(norm_first=True), "decoder": Decoder}
COMPRESSORS = {
    "low-rank": LowRank(),
    "filters": FilterPruning(layers=Layers.ALL),
    "trains": TensorTrain(),
    "entries": UnstructuredPruning(),
}
NESTED = pytest.mark.filterwarnings(
    "ignore:The PyTorch API of nested tensors:UserWarning", "ignore:enable_nested_tensor is True:UserWarning"
)


def example():
    torch.manual_seed(1)
    return torch.randn(2, 5, 12), PADDED


@NESTED
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("gradients", [False, True])
def test_the_model_computes_the_same_in_every_mode(name, gradients):
    model = MODELS[name]().eval()
    separate = separate_attention(copy.deepcopy(model))
    assert not any(isinstance(module, nn.MultiheadAttention) for module in separate.modules())
    assert sum(p.numel() for p in separate.parameters()) == sum(p.numel() for p in model.parameters())
    with torch.set_grad_enabled(gradients):
        torch.testing.assert_close(separate(*example()), model(*example()), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(separate(example()[0]), model(example()[0]), rtol=1e-5, atol=1e-5)


@NESTED
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("compressor", COMPRESSORS.values(), ids=COMPRESSORS)
def test_every_projection_is_cut_exactly(name, compressor):
    model = separate_attention(MODELS[name]()).double()
    x = (example()[0].double(), PADDED)
    check_compressor(compressor, model, x)
    cut = compressor.select(model, 0.6, example=x)
    reached = {name.removesuffix(".weight").removesuffix(".rank") for name in cut.reduced()}
    projections = {layer for layer, _ in model.named_modules() if layer.endswith(("q_proj", "k_proj", "v_proj"))}
    heads = {layer for layer in projections if layer.endswith("q_proj")}  # a head goes from all of its projections
    assert (heads if isinstance(compressor, FilterPruning) else projections) <= reached


def test_what_is_decomposed_has_fewer_parameters_and_saves_and_loads(tmp_path):
    def make():
        return separate_attention(nn.Sequential(Encoder(), nn.Linear(3, 2)))

    model, x = make(), example()[0]
    done = compress(model, LowRank(), 0.6, example=x)
    assert not done.cut.left_dense
    assert done.report.layers
    pliant.save(done, tmp_path)
    torch.testing.assert_close(pliant.load(tmp_path, make).eval()(x), done.model.eval()(x), rtol=0, atol=0)


def test_a_plan_constrains_the_projections_and_leaves_those_that_no_cut_decomposes():
    packed, separate = (
        {name for group in Plan.for_low_rank(model, k=2) if not isinstance(group.target, Free) for name in group.names}
        for model in (Encoder(), separate_attention(Encoder()))
    )
    assert not any("self_attn" in name for name in packed)
    for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
        assert f"encoder.layers.0.self_attn.{name}.weight" in separate


@NESTED
@pytest.mark.parametrize("name", MODELS)
def test_weights_of_the_packed_model_load(name):
    source, target = MODELS[name](), MODELS[name]()
    with torch.no_grad():
        for parameter in source.parameters():
            parameter.normal_()
    for separate in (separate_attention(target), pickle.loads(pickle.dumps(target)), copy.deepcopy(target)):  # noqa: S301
        separate.load_state_dict(source.state_dict())
        for one, other in zip(separate_attention(source).parameters(), separate.parameters(), strict=True):
            assert torch.equal(one, other)
        separate.load_state_dict(separate.state_dict())


def test_heads_that_were_cut_are_separated_too():
    model, x = Encoder().double().eval(), example()[0].double()
    fewer = compress(model, FilterPruning(layers=Layers.ALL), 0.5, example=x).model
    expected = fewer(x)
    torch.testing.assert_close(separate_attention(fewer)(x), expected, rtol=1e-10, atol=1e-10)
    check_compressor(LowRank(), fewer, x)


def test_only_the_attention_changes_and_only_once():
    model = Encoder(dropout=0.3).train()
    model.encoder.layers[0].self_attn.in_proj_weight.requires_grad_(False)
    state = torch.get_rng_state()
    assert separate_attention(model) is model
    assert torch.equal(torch.get_rng_state(), state)
    first = model.encoder.layers[0].self_attn
    assert isinstance(first, SeparateAttention)
    assert (first.training, first.dropout) == (True, 0.3)
    assert not first.k_proj.weight.requires_grad
    assert first.k_proj.bias.requires_grad
    assert separate_attention(model).encoder.layers[0].self_attn is first


def test_a_model_that_is_an_attention_is_returned_in_its_place():
    model = nn.MultiheadAttention(12, 4)
    x = torch.randn(5, 2, 12)
    torch.testing.assert_close(separate_attention(model)(x, x, x)[0], model(x, x, x)[0])


def test_one_attention_under_two_names_stays_one():
    attention = nn.MultiheadAttention(12, 4)
    model = separate_attention(nn.ModuleList([attention, attention]))
    assert isinstance(model[0], SeparateAttention)
    assert model[0] is model[1]


def _with_hook(model):
    model.encoder.layers[1].self_attn.register_forward_hook(lambda *_: None)


def _with_hook_on_output(model):
    model.encoder.layers[1].self_attn.out_proj.register_full_backward_hook(lambda *_: None)


def _with_parametrisation(model):
    nn.utils.parametrizations.weight_norm(model.encoder.layers[1].self_attn, "in_proj_weight")


def _tied(model):
    first, second = model.encoder.layers
    second.self_attn.in_proj_weight = first.self_attn.in_proj_weight


REFUSED = {
    "has hooks": _with_hook,
    "has hooks, which": _with_hook_on_output,
    "parametrised": _with_parametrisation,
    "shares its parameter in_proj_weight": _tied,
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_would_be_lost_is_refused_by_name_and_nothing_is_changed(message):
    model = Encoder()
    REFUSED[message](model)
    with pytest.raises(ValueError, match=rf"encoder\.layers\.\d\.self_attn.*{message}"):
        separate_attention(model)
    assert all(isinstance(layer.self_attn, nn.MultiheadAttention) for layer in model.encoder.layers)
