from __future__ import annotations

import copy
import itertools
from dataclasses import replace
from functools import partial

import pytest
import torch
from compressible import build
from torch import nn
from torch.nn.utils import parametrizations

from pliant.compress import (
    Both,
    CutError,
    Energy,
    EqualError,
    EqualFraction,
    FilterPruning,
    Layers,
    LowRank,
    Macs,
    Scheme,
    SquaredEnergy,
    TensorTrain,
    compress,
    load,
    save,
)
from pliant.compress.compressor import compressor_of
from pliant.compress.cut import Cut
from pliant.compress.factor import spectrum, split, truncate_weight
from pliant.methods import Factored
from pliant.structure.matricise import axes_of
from pliant.testing import check_compressor


def _matrices(layer):
    return axes_of(layer, "weight").to_matrices(layer.weight.detach())


def _relative(model, example, compressor, fraction):
    return compress(model, compressor, fraction, example=example).report.relative_difference


LAYERS = {
    "linear": nn.Linear(20, 12),
    "conv1d": nn.Conv1d(4, 12, 5),
    "conv": nn.Conv2d(4, 12, 3),
    "conv3d": nn.Conv3d(4, 12, 2),
    "grouped": nn.Conv2d(8, 12, 3, groups=2),
    "transposed": nn.ConvTranspose2d(6, 10, 3),
    "transposed-grouped": nn.ConvTranspose2d(6, 10, 3, groups=2),
}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS)
def test_truncation_is_the_best_approximation(layer, dtype):
    layer = layer.to(dtype)
    shape = {0: (2, 20), 3: (2, 4, 9)}.get(0 if isinstance(layer, nn.Linear) else layer.weight.ndim)
    shape = shape or (2, layer.in_channels, *[6] * (layer.weight.ndim - 2))
    tail = nn.Conv2d(layer.out_channels, 2, 1) if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d) else None
    last = tail or (nn.Linear(12, 2) if isinstance(layer, nn.Linear) else type(layer)(12, 2, 1))
    model = nn.Sequential(layer, last).to(dtype)
    cut = LowRank().select(model, 0.5, example=torch.randn(shape, dtype=dtype))
    rank = cut.kept["0"]
    truncated = LowRank().truncate(model, cut)[0]
    sigma = torch.linalg.svdvals(_matrices(layer))
    error = (_matrices(truncated) - _matrices(layer)).flatten(1).norm(dim=1)
    tol = 1e-12 if dtype is torch.float64 else 1e-5
    torch.testing.assert_close(error, sigma[:, rank:].norm(dim=1), rtol=tol, atol=tol)
    assert int(torch.linalg.matrix_rank(_matrices(truncated), rtol=1e-5).max()) == rank


@pytest.mark.parametrize("shape", [(7, 30), (30, 7), (9, 9)])
def test_float32_spectra_are_those_of_a_full_decomposition(shape):
    layer = nn.Linear(shape[1], shape[0])
    expected = torch.linalg.svdvals(layer.weight.detach().double())
    torch.testing.assert_close(spectrum(layer)[0], expected, rtol=1e-6, atol=1e-8)


def test_rank_deficient_and_zero_weights_are_factored_without_nan():
    model = nn.Sequential(nn.Linear(12, 10), nn.ReLU(), nn.Linear(10, 10), nn.ReLU(), nn.Linear(10, 2))
    with torch.no_grad():
        model[0].weight.zero_()
        model[2].weight.copy_(torch.outer(torch.arange(10.0), torch.ones(10)))
    for dtype in (torch.float32, torch.float64):
        model.to(dtype)
        example = torch.randn(3, 12, dtype=dtype)
        done = compress(model, LowRank(), 0.7, example=example)
        torch.testing.assert_close(done.model(example), model(example), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(8, 16, 3, dilation=2),
        nn.Conv2d(8, 16, 3, padding=1, groups=4),
        nn.Conv2d(8, 16, 3, padding=1, padding_mode="reflect"),
        nn.Conv2d(8, 16, 5, padding=(1, 2), stride=(2, 1), padding_mode="circular", bias=False),
        nn.Conv2d(8, 16, 3, padding="same", padding_mode="replicate"),
        nn.ConvTranspose2d(8, 16, 3, stride=2, padding=1, output_padding=1, dilation=2, groups=2),
    ],
    ids=str,
)
def test_every_attribute_of_a_convolution_survives(conv):
    model = nn.Sequential(conv, nn.Conv2d(16, 3, 1)).double()
    done = compress(model, LowRank(), 0.7, example=torch.randn(2, 8, 14, 14).double())
    assert done.report.relative_difference < 1e-10
    first, second = done.model[0]
    for name in ("kernel_size", "stride", "padding", "dilation", "groups", "padding_mode"):
        assert getattr(first, name) == getattr(conv, name)
    assert first.bias is None
    assert (second.bias is None) == (conv.bias is None)
    assert type(first) is type(conv)
    assert type(second) is nn.Conv2d


@pytest.mark.parametrize(("conv", "pays"), [(nn.Conv2d(3, 64, 3), False), (nn.Conv2d(256, 64, 1), True)])
def test_a_split_that_does_not_pay_stays_dense_and_keeps_its_truncated_weight(conv, pays):
    model = nn.Sequential(conv, nn.ReLU(), nn.Conv2d(64, 5, 1))
    example = torch.randn(1, conv.in_channels, 6, 6)
    done = compress(model, LowRank(ignore=("2",)), 0.2, example=example)
    assert ("0" not in done.report.left_dense) == pays
    assert isinstance(done.model[0], nn.Sequential) == pays
    assert done.report.parameters <= done.report.dense_parameters
    if not pays:
        rank = done.cut.kept["0"]
        assert f"rank {rank} of 27" in done.report.left_dense["0"]
        assert int(torch.linalg.matrix_rank(done.model[0].weight.flatten(1), rtol=1e-5)) == rank


def test_strided_layers_need_lower_macs_too():
    """A 1x1 transposed convolution of stride 4 writes sixteen pixels per pixel: fewer parameters, more MACs."""
    model = nn.Sequential(nn.ConvTranspose2d(32, 32, 1, stride=4), nn.Conv2d(32, 2, 1))
    done = compress(model, LowRank(), 0.6, example=torch.randn(1, 32, 4, 4))
    assert "0" in done.report.left_dense
    assert done.report.macs <= done.report.dense_macs


def test_the_factors_share_the_scale():
    model, example = build("plain")
    first, second = compress(model, LowRank(), 0.6, example=example).model[4]
    a, b = first.weight.flatten(1), second.weight.flatten(1)
    torch.testing.assert_close(a.norm(dim=1), b.norm(dim=0))


def test_fractions_hold_per_layer_or_in_total():
    model, example = build("plain")
    for fraction in (0.25, 0.5, 0.75):
        cut = LowRank().select(model, fraction, example=example)
        assert all(cut.count(n) == total - int(fraction * total + 0.5) for n, total in cut.atoms.items())
        for rule in (Energy(), SquaredEnergy(), EqualError()):
            cut = LowRank(rule).select(model, fraction, example=example)
            assert sum(cut.kept.values()) == sum(cut.atoms.values()) - int(fraction * sum(cut.atoms.values()) + 0.5)


@pytest.mark.parametrize("level", [0.5, 0.8, 0.95, 1.0])
def test_a_level_gives_the_smallest_rank_that_reaches_it(level):
    model, example = build("plain")
    for rule, power in ((Energy(level), 1), (SquaredEnergy(level), 2)):
        cut = LowRank(rule).select(model, example=example)
        assert cut.fraction is None
        for name, rank in cut.kept.items():
            energy = spectrum(model.get_submodule(name))[0] ** power
            share = energy.cumsum(0) / energy.sum()
            assert share[rank - 1] >= level - 1e-9
            assert rank == 1 or share[rank - 2] < level


def test_equal_error_is_squared_energy_in_other_units():
    model, example = build("plain")
    for error in (0.1, 0.3, 0.6):
        by_error = LowRank(EqualError(error)).select(model, example=example)
        assert by_error.kept == LowRank(SquaredEnergy(1 - error**2)).select(model, example=example).kept
        truncated = LowRank(EqualError(error)).truncate(model, by_error)
        for name in by_error.kept:
            old, new = model.get_submodule(name).weight, truncated.get_submodule(name).weight
            assert (new - old).norm() <= (error + 1e-9) * old.norm()
    fractions = [LowRank(rule).select(model, 0.5, example=example).kept for rule in (EqualError(), SquaredEnergy())]
    assert fractions[0] == fractions[1]
    assert LowRank(Energy()).select(model, 0.5, example=example).kept != fractions[0] or len(fractions[0]) < 2


def test_levels_and_fractions_exclude_each_other():
    model, example = build("plain")
    for rule in (EqualFraction(), Energy()):
        with pytest.raises(ValueError, match="fraction must be given"):
            LowRank(rule).select(model, example=example)
    with pytest.raises(ValueError, match="must be None"):
        LowRank(Energy(0.9)).select(model, 0.5, example=example)
    for rule in (Energy, SquaredEnergy):
        for level in (0.0, -1.0, 1.1, float("nan")):
            with pytest.raises(ValueError, match="level"):
                rule(level)
    with pytest.raises(ValueError, match="level"):
        EqualError(1.0)


def test_attention_keeps_working_and_is_named():
    model, example = build("attention")
    done = compress(model, LowRank(), 0.6, example=example)
    assert isinstance(done.model.attention.out_proj, nn.Linear)
    assert {"attention.in_proj_weight", "attention.out_proj", "head", "class_token"} <= set(done.report.skipped)
    assert isinstance(done.model.fc1, nn.Sequential)


class Encoder(nn.Module):
    """Torch's own encoder, and a head that reads all places, the padded ones too."""

    def __init__(self, **options):
        super().__init__()
        torch.manual_seed(0)
        layer = nn.TransformerEncoderLayer(12, 4, 24, **{"batch_first": True, "dropout": 0.0} | options)
        self.encoder = nn.TransformerEncoder(layer, 2)
        self.head = nn.Linear(12, 3)

    def forward(self, x, padding=None):
        return self.head(self.encoder(x, src_key_padding_mask=padding))


class EncoderAndDecoder(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.both = nn.Transformer(12, 4, 2, 2, 24, batch_first=True, dropout=0.0)
        self.head = nn.Linear(12, 3)

    def forward(self, x, padding=None):
        return self.head(self.both(x, x, src_key_padding_mask=padding, memory_key_padding_mask=padding))


PADDED = torch.tensor([[False] * 5, [False] * 3 + [True] * 2])
TRANSFORMERS = {
    "relu": Encoder,
    "gelu": partial(Encoder, activation="gelu"),
    "norm first": partial(Encoder, norm_first=True),
    "tanh": partial(Encoder, activation=torch.tanh),
    "tokens first": partial(Encoder, batch_first=False),
    "decoder": EncoderAndDecoder,
}
# The fast path of torch's encoder makes nested tensors of padded ones, and says why where it does not.
OFFICIOUS = pytest.mark.filterwarnings(
    "ignore:The PyTorch API of nested tensors:UserWarning", "ignore:enable_nested_tensor is True:UserWarning"
)
RANKS = {
    "low-rank": LowRank(),
    "spatial": LowRank(scheme=Scheme.SPATIAL),
    "trains": TensorTrain(),
    "both": Both(FilterPruning(layers=Layers.ALL)),
}


@pytest.fixture(params=TRANSFORMERS)
def transformer(request):
    make = TRANSFORMERS[request.param]
    x = torch.randn(2, 5, 12)
    return make, (x.transpose(0, 1) if request.param == "tokens first" else x, PADDED)


@OFFICIOUS
@pytest.mark.parametrize("compressor", RANKS.values(), ids=RANKS)
@pytest.mark.parametrize("padded", [False, True])
def test_torchs_own_transformer_does_the_same_in_every_mode(transformer, compressor, padded, tmp_path):
    make, example = transformer
    example = example if padded else example[:1]
    model = make()
    done = compress(model, compressor, 0.6, example=example)
    linear = {name for name, _ in model.named_modules() if ".linear" in name}
    assert linear
    assert linear <= {name.removesuffix(".rank") for name in done.cut.reduced()}
    assert not done.cut.left_dense
    save(done, tmp_path)
    truncated = compressor.truncate(model, done.cut)
    for realised in (done.model, copy.deepcopy(done.model), load(tmp_path, make)):
        for training, context in itertools.product((False, True), (torch.no_grad, torch.enable_grad)):
            with context():
                found, expected = (m.train(training)(*example) for m in (realised, truncated))
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@OFFICIOUS
@pytest.mark.parametrize("compressor", RANKS.values(), ids=RANKS)
def test_torchs_own_encoder_writes_the_same_zeros_where_it_is_padded(compressor):
    model, example = Encoder().eval(), (torch.randn(2, 5, 12), PADDED)
    with torch.no_grad():
        found = compress(model, compressor, 0.6, example=example).model(*example)
    assert torch.equal(found[PADDED], model.head.bias.detach().expand(2, 3))


@pytest.mark.parametrize("name", ["low-rank", "trains"])
def test_torchs_own_encoder_obeys_the_laws_and_never_takes_its_fast_path(name, monkeypatch):
    model, example = Encoder().eval(), torch.randn(2, 5, 12)
    check_compressor(RANKS[name], model, example)
    done = compress(model, RANKS[name], budget=Macs(0.7), example=example, reconstruct=[torch.randn(8, 5, 12)])
    assert done.report.macs <= 0.7 * done.report.dense_macs
    assert "its forward is not called" in done.report.skipped["encoder.layers.0.self_attn.out_proj"]
    calls = []
    monkeypatch.setattr(torch, "_transformer_encoder_layer_fwd", lambda x, *_: calls.append(x) or x)
    with torch.no_grad():
        model(example)
        assert len(calls) == 2
        done.model(example)
    assert len(calls) == 2


def test_torchs_own_encoder_layer_has_its_fast_path_again_with_plain_layers():
    model, example = Encoder(activation="gelu").eval(), torch.randn(2, 5, 12)
    change = Factored(LowRank(), LowRank().select(model, 0.6, example=example))
    small = change.apply(model)
    assert [layer.activation_relu_or_gelu for layer in small.encoder.layers] == [0, 0]
    plain = change.collapse(small)
    assert [layer.activation_relu_or_gelu for layer in plain.encoder.layers] == [2, 2]
    with torch.no_grad():
        torch.testing.assert_close(plain(example), small(example), rtol=1e-5, atol=1e-5)


def test_torchs_own_encoder_is_exported():
    example = torch.randn(2, 5, 12)
    small = compress(Encoder().eval(), LowRank(), 0.6, example=example).model.eval()
    exported = torch.export.export(small, (example,)).module()
    with torch.no_grad():
        torch.testing.assert_close(exported(example), small(example), rtol=1e-5, atol=1e-5)


def test_layers_that_a_replacement_would_break_are_skipped_by_name():
    shared = nn.Linear(10, 10)
    model = nn.Sequential(
        nn.Linear(10, 10), shared, shared, parametrizations.orthogonal(nn.Linear(10, 10)), nn.Linear(10, 3)
    )
    model[0].register_forward_hook(lambda _module, _args, _output: None)
    cut = LowRank().select(model, 0.7, example=torch.randn(2, 10))
    assert not cut.kept
    assert "hooks" in cut.skipped["0"]
    assert "shares" in cut.skipped["1"]
    assert "parametrised" in cut.skipped["3"]
    assert set(cut.skipped) >= {"0", "1", "3", "4"}


def test_a_matrix_outside_of_layers_is_told_what_would_cut_it():
    class Experts(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight, self.out = nn.Parameter(torch.randn(4, 6, 8)), nn.Linear(8, 3)

        def forward(self, x):
            return self.out(torch.einsum("bi,eio->bo", x, self.weight))

    reason = LowRank().select(Experts(), 0.5, example=torch.randn(2, 6)).skipped["weight"]
    assert "FilterPruning" in reason
    assert "nn.Linear" in reason


def test_traits_of_a_layer_survive():
    model = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 2)).bfloat16().eval()
    model[0].weight.requires_grad_(requires_grad=False)
    bias = model[0].bias.detach().clone()
    first, second = compress(model, LowRank(), 0.8, example=torch.randn(2, 16).bfloat16()).model[0]
    assert not first.training
    assert not second.training
    assert first.weight.dtype == second.weight.dtype == torch.bfloat16
    assert not first.weight.requires_grad
    assert not second.weight.requires_grad
    assert second.bias.requires_grad
    assert torch.equal(second.bias, bias)


def test_a_model_can_be_cut_again():
    model, example = build("plain")
    once = compress(model, LowRank(), 0.5, example=example)
    again = compress(once.model, LowRank(), 0.3, example=example)
    assert again.report.relative_difference < 1e-10
    assert again.report.parameters <= once.report.parameters
    assert again.report.macs <= once.report.macs


def test_a_list_of_atoms_is_no_rank():
    model, example = build("plain")
    cut = LowRank().select(model, 0.5, example=example)
    cut.kept["4"] = (0, 1)
    with pytest.raises(CutError, match="rank"):
        LowRank().truncate(model, cut)


def test_only_convolutions_on_request():
    model, example = build("plain")
    assert set(LowRank(layers=Layers.CONVOLUTIONS).select(model, 0.5, example=example).kept) == {"0", "4", "8"}
    assert _relative(model, example, LowRank(layers=Layers.CONVOLUTIONS), 0.5) < 1e-10


KERNELS = {
    "stride": lambda: nn.Conv2d(4, 6, 3, stride=2, padding=1),
    "two strides": lambda: nn.Conv2d(4, 6, 3, stride=(2, 3), padding=(1, 2)),
    "dilation": lambda: nn.Conv2d(4, 6, (3, 2), dilation=(2, 3), bias=False),
    "circular": lambda: nn.Conv2d(4, 6, 3, padding=1, padding_mode="circular"),
    "reflect": lambda: nn.Conv2d(4, 6, 5, padding=(2, 1), padding_mode="reflect"),
    "even, same": lambda: nn.Conv2d(4, 6, (2, 4), padding="same"),
    "valid": lambda: nn.Conv2d(4, 6, 3, padding="valid"),
    "groups": lambda: nn.Conv2d(4, 6, 3, groups=2),
    "conv3d": lambda: nn.Conv3d(4, 6, (2, 3, 2), padding=1),
}


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
@pytest.mark.parametrize("rank", [1, 3])
@pytest.mark.parametrize("kind", KERNELS)
def test_a_spatial_rank_is_two_convolutions_along_one_part_of_the_axes_each(kind, rank):
    torch.manual_seed(0)
    layer = KERNELS[kind]().double()
    x = torch.randn(2, 4, *[11] * (layer.weight.ndim - 2), dtype=torch.float64)
    factors = split(layer, rank, Scheme.SPATIAL)
    assert factors[0].kernel_size == (*layer.kernel_size[:-1], 1)
    assert factors[1].kernel_size == (*[1] * (len(layer.kernel_size) - 1), layer.kernel_size[-1])
    names = ("kernel_size", "stride", "padding", "dilation", "padding_mode", "groups", "in_channels", "out_channels")
    assert [getattr(factors, name) for name in names] == [getattr(layer, name) for name in names]
    truncate_weight(layer, rank, Scheme.SPATIAL)
    torch.testing.assert_close(factors(x), layer(x), rtol=1e-12, atol=1e-12)


def test_a_spatial_truncation_is_the_best_of_separable_kernels():
    """Against alternating least squares on the two factors, from the layer's own slices."""
    torch.manual_seed(0)
    layer = nn.Conv2d(3, 4, 3).double()
    before = layer.weight.detach().clone()
    truncate_weight(layer, 2, Scheme.SPATIAL)
    best = (layer.weight - before).norm()
    flat = before.permute(0, 3, 1, 2).reshape(12, 9)
    left = flat[:, :2].clone()
    for _ in range(2000):
        right = torch.linalg.lstsq(left, flat).solution
        left = torch.linalg.lstsq(right.T, flat.T).solution.T
    torch.testing.assert_close(best, (left @ right - flat).norm(), rtol=1e-6, atol=0.0)


def test_a_product_of_kernels_along_each_axis_costs_nothing_to_separate():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 2, 1))
    with torch.no_grad():
        ranks = torch.einsum("orb,ria->oiab", torch.randn(8, 3, 3), torch.randn(3, 8, 3))
        model[0].weight.copy_(ranks)
    x = torch.randn(2, 8, 9, 9)
    done = compress(model, LowRank(scheme=Scheme.SPATIAL), budget=Macs(0.35), example=x)
    assert done.cut.kept["0"] <= 5
    torch.testing.assert_close(done.model(x), model(x), rtol=1e-4, atol=1e-5)
    with_channels = compress(model, LowRank(), budget=Macs(0.35), example=x)
    assert not torch.allclose(with_channels.model(x), model(x), rtol=1e-2, atol=1e-3)


def test_a_cut_says_by_which_scheme_it_was_made():
    model, example = build("plain")
    cut = LowRank(scheme=Scheme.SPATIAL).select(model, 0.9, example=example)
    assert Cut.from_json(cut.to_json()) == cut
    assert compressor_of(cut) == LowRank(scheme=Scheme.SPATIAL)
    with pytest.raises(CutError, match="cut"):
        LowRank().truncate(model, cut)
    new = LowRank().select(model, 0.5, example=example)
    old = replace(new, options={name: value for name, value in new.options.items() if name != "scheme"})
    assert compressor_of(Cut.from_json(old.to_json())) == LowRank()  # of a version that knew one scheme
    expected = LowRank().truncate(model, new).state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in LowRank().truncate(model, old).state_dict().items())


@pytest.mark.parametrize("scheme", ["spatial", None])
def test_a_scheme_by_its_name_alone_is_refused(scheme):
    with pytest.raises(ValueError, match=r"one of Scheme\.CHANNEL, Scheme\.SPATIAL, found"):
        LowRank(scheme=scheme)


def test_layers_that_return_one_number_are_cut_as_before():
    class Mean(nn.Linear):
        def forward(self, x):
            return super().forward(x).mean()

    model = nn.Sequential(nn.Linear(6, 8), Mean(8, 4))
    for scheme in Scheme:
        assert LowRank(scheme=scheme).select(model, 0.5, example=torch.randn(3, 6)).kept["0"] == 3
