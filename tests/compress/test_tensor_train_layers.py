"""TTLinear and TTConv2d: exact, as cheap as they say, plain modules."""

from __future__ import annotations

import copy
import io
import itertools
import pickle

import pytest
import torch
from torch import nn

from pliant.export.onnx import to_onnx
from pliant.export.torch_export import to_torch_export
from pliant.metrics.size import count_macs
from pliant.tensor_train import (
    Form,
    MatrixModes,
    Paired,
    Reshaped,
    Separate,
    TrainError,
    TTConv2d,
    TTLinear,
    admissible,
    as_train,
    blank_train,
    contract,
    decompose,
    full_ranks,
)
from pliant.tensor_train.contraction import FromInputs, FromOutputs, Whole, cheapest

CONVOLUTIONS = {
    "plain": nn.Conv2d(6, 10, 3),
    "strided": nn.Conv2d(6, 10, 3, stride=2, padding=1),
    "dilated": nn.Conv2d(6, 10, 3, padding="same", dilation=2, bias=False),
    "reflect": nn.Conv2d(7, 13, (3, 2), padding=(1, 0), padding_mode="reflect"),
    "replicate": nn.Conv2d(6, 8, 5, padding=2, padding_mode="replicate", stride=(1, 2)),
    "circular": nn.Conv2d(3, 11, (3, 5), padding="same", padding_mode="circular"),
    "valid": nn.Conv2d(4, 8, (1, 3), padding="valid"),
    "pointwise": nn.Conv2d(8, 8, 1, stride=2),
    "pointwise-padded": nn.Conv2d(8, 8, 1, padding=1, padding_mode="circular", stride=(2, 1)),
    "prime": nn.Conv2d(23, 29, 3, padding=1),
}
LINEARS = {"linear": nn.Linear(12, 10), "no-bias": nn.Linear(24, 36, bias=False), "prime-linear": nn.Linear(59, 41)}
LAYERS = {**LINEARS, **CONVOLUTIONS}
READINGS = {"paired": Paired(), "paired-3": Paired(3), "separate": Separate(), "separate-2-2": Separate(2, 2)}
each_layer = pytest.mark.parametrize("layer", [copy.deepcopy(v).double() for v in LAYERS.values()], ids=LAYERS)
each_reading = pytest.mark.parametrize("reading", READINGS.values(), ids=READINGS)


def _input(layer, batch=3):
    shape = (layer.weight.shape[1], 9, 8) if isinstance(layer, nn.Conv2d) else (layer.in_features,)
    generator = torch.Generator().manual_seed(0)
    return torch.randn(batch, *shape, generator=generator, dtype=torch.float64).to(layer.weight.dtype)


def _train(layer, reading, share=0.5):
    modes = reading.modes(layer.weight.shape)
    ranks = admissible(modes.sizes, [max(1, int(share * rank)) for rank in full_ranks(modes.sizes)])
    return as_train(layer, modes, decompose(modes.fold(layer.weight.detach()), ranks))


@each_reading
@each_layer
def test_every_way_through_the_cores_gives_what_the_dense_twin_gives(layer, reading):
    train = _train(layer, reading)
    twin, x = train.dense(), _input(layer)
    assert type(twin) is type(layer)
    assert (twin.weight - layer.weight).abs().max() > 1e-3
    for train.contraction in (FromInputs(), FromOutputs(), Whole()):
        torch.testing.assert_close(train(x), twin(x), rtol=0, atol=1e-10)


@each_reading
@each_layer
def test_full_ranks_give_the_layer_itself(layer, reading):
    train, x = _train(layer, reading, 1.0), _input(layer)
    torch.testing.assert_close(train(x), layer(x), rtol=0, atol=1e-10)


@each_reading
@each_layer
def test_the_multiplications_are_those_that_torch_counts(layer, reading):
    train, x = _train(layer, reading), _input(layer)
    reads = x[:, 0].numel()
    writes = train(x)[:, 0].numel()
    counted = {}
    for way in (FromInputs(), FromOutputs(), Whole()):
        train.contraction = way
        counted[way] = count_macs(train, x)
        assert train.macs(reads, writes) == counted[way]


@each_reading
@each_layer
def test_the_chosen_way_is_the_cheapest_for_many_positions(layer, reading):
    train = _train(layer, reading)
    reads = layer.stride[0] * layer.stride[1] if isinstance(layer, nn.Conv2d) else 1
    costs = {type(way): way.macs(train.form, reads << 20, 1 << 20) for way in (FromInputs(), FromOutputs(), Whole())}
    assert costs[type(train.contraction)] == min(costs.values())


def test_small_ranks_never_make_the_weight_and_large_ones_do():
    modes = Paired(2).modes((64, 64))
    assert isinstance(cheapest(Form((64, 64), modes, (2,))), FromInputs)
    assert isinstance(cheapest(Form((64, 64), modes, (64,))), Whole)


@pytest.mark.parametrize("name", ["linear", "strided", "reflect", "pointwise-padded"])
def test_layers_take_the_inputs_that_the_plain_ones_take(name):
    layer = LAYERS[name].double()
    train = _train(layer, Paired(), 1.0)
    x = _input(layer)
    torch.testing.assert_close(train(x[0]), layer(x[0]), rtol=0, atol=1e-10)
    torch.testing.assert_close(train(x[:0]), layer(x[:0]), rtol=0, atol=1e-10)
    if isinstance(layer, nn.Linear):
        tokens = x.reshape(1, 3, 1, -1)
        torch.testing.assert_close(train(tokens), layer(tokens), rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", ["linear", "plain", "circular", "pointwise"])
@each_reading
def test_gradients_are_those_of_the_weight_that_the_cores_make(name, reading):
    layer = LAYERS[name].double()
    train, x = _train(layer, reading), _input(layer)
    train(x).square().sum().backward()
    cores = [core.detach().clone().requires_grad_() for core in train.cores]
    weight = train.form.modes.unfold(contract(cores), train.form.shape)
    torch.func.functional_call(layer, {"weight": weight}, x).square().sum().backward()
    for core, expected in zip(train.cores, cores, strict=True):
        torch.testing.assert_close(core.grad, expected.grad, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["linear", "reflect", "pointwise"])
def test_layers_are_plain_modules(name):
    layer = LAYERS[name].double()
    train, x = _train(layer, Separate(2, 2)), _input(layer)
    assert [key for key in train.state_dict() if key != "bias"] == [f"cores.{i}" for i in range(len(train.form.cores))]
    expected = train(x)
    for again in (copy.deepcopy(train), pickle.loads(pickle.dumps(train))):  # noqa: S301  (our own bytes)
        assert torch.equal(again(x), expected)
        assert not {p.data_ptr() for p in again.parameters()} & {p.data_ptr() for p in train.parameters()}
    buffer = io.BytesIO()
    torch.save(train.state_dict(), buffer)
    buffer.seek(0)
    blank = blank_train(layer, train.form).to_empty(device="cpu")
    blank.load_state_dict(torch.load(buffer, weights_only=True))
    assert torch.equal(blank(x), expected)
    assert str(train.form.ranks) in repr(train)


def test_a_model_of_trains_can_be_exported_with_an_open_batch(tmp_path):
    conv, linear = copy.deepcopy(LAYERS["strided"]).float(), nn.Linear(200, 12)
    model = nn.Sequential(_train(conv, Separate(2, 2)), nn.ReLU(), nn.Flatten(), _train(linear, Paired(), 0.05))
    assert not isinstance(model[3].contraction, Whole)
    assert len(to_onnx(model, _input(conv), tmp_path / "model.onnx").batches) == 2
    assert to_torch_export(model, _input(conv), tmp_path / "model.pt2").relative_difference <= 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("name", ["linear", "strided", "circular", "reflect", "pointwise-padded"])
@pytest.mark.parametrize("way", [FromInputs(), FromOutputs(), Whole()], ids=["inputs", "outputs", "whole"])
def test_every_way_can_be_exported(name, way, tmp_path):
    layer = copy.deepcopy(LAYERS[name]).float()
    train = _train(layer, Separate(2, 2))
    train.contraction = way
    assert len(to_onnx(train, _input(layer), tmp_path / "layer.onnx").batches) == 2
    assert to_torch_export(train, _input(layer), tmp_path / "layer.pt2").relative_difference <= 1e-6


def test_traits_of_the_plain_layer_survive():
    layer = nn.Linear(16, 12).bfloat16().eval()
    layer.weight.requires_grad_(requires_grad=False)
    train = _train(layer.float(), Paired())
    assert not train.training
    assert not any(core.requires_grad for core in train.cores)
    assert train.bias.requires_grad
    assert torch.equal(train.bias, layer.bias)
    assert train.bias.data_ptr() != layer.bias.data_ptr()
    assert train.bfloat16()(torch.randn(2, 16).bfloat16()).dtype == torch.bfloat16
    norms = [core.detach().float().norm().item() for core in train.cores]
    assert max(norms) < 1.02 * min(norms)


@pytest.mark.parametrize("reading", [Paired(), Separate(2, 2)], ids=str)
@pytest.mark.parametrize("shape", [(64, 64), (32, 36, 3, 3)], ids=str)
def test_new_layers_vary_as_torchs_own(reading, shape):
    modes = reading.modes(shape)
    form = Form(shape, modes, admissible(modes.sizes, [8] * (len(modes.sizes) - 1)))
    torch.manual_seed(0)
    trains = [TTLinear(form) if len(shape) == 2 else TTConv2d(form) for _ in range(20)]
    plain = nn.Linear(64, 64) if len(shape) == 2 else nn.Conv2d(36, 32, 3)
    spread = torch.stack([train.dense().weight.var() for train in trains]).mean()
    assert 0.7 < spread.item() / plain.weight.var().item() < 1.4
    assert 0.5 < trains[0].bias.abs().max().item() / plain.bias.abs().max().item() < 2


def test_a_layer_of_cores_learns():
    torch.manual_seed(0)
    modes = Paired().modes((16, 16))
    model, target = TTLinear(Form((16, 16), modes, (6,))), nn.Linear(16, 16)
    x = torch.randn(256, 16)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    losses = []
    for _ in range(150):
        optimizer.zero_grad()
        loss = (model(x) - target(x)).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.35 * losses[0]


def test_modes_that_mix_outputs_and_inputs_make_the_weight():
    layer = nn.Linear(12, 10).double()
    train = _train(layer, Reshaped((4, 6, 5)))
    assert isinstance(train.contraction, Whole)
    x = _input(layer)
    torch.testing.assert_close(train(x), train.dense()(x), rtol=0, atol=1e-12)
    train.contraction = FromInputs()
    with pytest.raises(TypeError, match="Whole"):
        train(x)


def test_layers_that_no_train_stands_for_are_refused():
    modes = Separate().modes((8, 4, 3, 3))
    for layer in (nn.Conv2d(8, 8, 3, groups=2), nn.ConvTranspose2d(4, 8, 3), nn.Conv1d(4, 8, 3)):
        with pytest.raises(TrainError, match="one group"):
            blank_train(layer, Form((8, 4, 3, 3), modes, (2, 2)))
    with pytest.raises(TrainError, match="cores"):
        as_train(nn.Linear(4, 4), MatrixModes((2, 2), (2, 2)), [torch.ones(1, 3, 2), torch.ones(2, 4, 1)])
    with pytest.raises(TrainError, match="ranks"):
        Form((4, 4), MatrixModes((2, 2), (2, 2)), (5,))
    with pytest.raises(TrainError, match="fit"):
        Form((5, 4), MatrixModes((2, 2), (2, 2)), (2,))


def test_a_train_of_zeros_is_zero():
    layer = nn.Conv2d(4, 6, 3)
    nn.init.zeros_(layer.weight)
    train = _train(layer, Separate())
    assert torch.isfinite(train(_input(layer))).all()
    assert not train.dense().weight.any()


def test_directions_agree_for_every_place_of_the_window():
    weight = torch.randn(6, 10, 3, 3, dtype=torch.float64)
    layer = nn.Conv2d(10, 6, 3, padding=1).double()
    x = _input(layer)
    for place, padded in itertools.product(range(3), (False, True)):
        modes = MatrixModes((2, 3), (4, 3) if padded else (2, 5), (3, 3), place)
        cores = decompose(modes.fold(weight), admissible(modes.sizes, (4, 5)))
        train = as_train(layer, modes, cores)
        for train.contraction in (FromInputs(), FromOutputs()):
            torch.testing.assert_close(train(x), train.dense()(x), rtol=0, atol=1e-10)


def _small_layers():
    window = Form((16, 8, 3, 3), Separate().modes((16, 8, 3, 3)), (4, 4))
    return TTLinear(Form((48, 64), Paired(2).modes((48, 64)), (8,))), TTConv2d(window, padding=1)


@pytest.mark.parametrize("way", [FromInputs(), FromOutputs(), Whole()], ids=["inputs", "outputs", "whole"])
def test_a_batch_of_nothing_gives_nothing(way):
    for layer, shape in zip(_small_layers(), ((0, 64), (0, 8, 5, 5)), strict=True):
        layer.contraction = way
        x = torch.randn(shape)
        assert layer(x).shape == layer.dense()(x).shape


def test_outputs_under_autocast_have_the_dtype_that_those_of_plain_layers_have():
    for layer, shape in zip(_small_layers(), ((4, 64), (4, 8, 5, 5)), strict=True):
        x = torch.randn(shape)
        with torch.autocast("cpu", torch.bfloat16):
            assert layer(x).dtype == layer.dense()(x).dtype == torch.bfloat16


def test_an_input_of_another_width_is_refused_with_both_widths():
    linear, convolution = _small_layers()
    with pytest.raises(TrainError, match=r"\(\*, 64\), .* found \(2, 128\)"):
        linear(torch.randn(2, 128))
    with pytest.raises(TrainError, match=r"\(\*, 8, \*, \*\), .* found \(2, 4, 5, 5\)"):
        convolution(torch.randn(2, 4, 5, 5))
