"""Which axes the parameters of every layer type have."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from pliant.regions import Axes
from pliant.structure import axes_of
from pliant.structure.matricise import Scheme, axes_in

CASES = [
    (nn.Linear(3, 4), {"weight": Axes(), "bias": Axes()}),
    (nn.Conv1d(4, 6, 3, groups=2), {"weight": Axes(groups=2), "bias": Axes()}),
    (nn.Conv2d(4, 6, 3), {"weight": Axes(), "bias": Axes()}),
    (nn.Conv3d(4, 4, 2, groups=4), {"weight": Axes(groups=4), "bias": Axes()}),
    (nn.ConvTranspose1d(4, 6, 3), {"weight": Axes(out=1), "bias": Axes()}),
    (nn.ConvTranspose2d(4, 6, 3, groups=2), {"weight": Axes(out=1, groups=2), "bias": Axes()}),
    (nn.ConvTranspose3d(4, 6, 2), {"weight": Axes(out=1), "bias": Axes()}),
    (nn.MultiheadAttention(4, 2), {"in_proj_weight": Axes(groups=3), "in_proj_bias": Axes(groups=3)}),
    (nn.MultiheadAttention(4, 2, kdim=3), {"q_proj_weight": Axes(), "k_proj_weight": Axes()}),
    (nn.RNN(3, 4), {"weight_ih_l0": Axes(), "weight_hh_l0": Axes()}),
    (nn.GRU(3, 4), {"weight_ih_l0": Axes(groups=3), "weight_hh_l0": Axes(groups=3)}),
    (
        nn.LSTM(3, 4, proj_size=2, bidirectional=True),
        {"weight_ih_l0": Axes(groups=4), "weight_hh_l0_reverse": Axes(groups=4), "weight_hr_l0": Axes()},
    ),
    (nn.RNNCell(3, 4), {"weight_ih": Axes()}),
    (nn.GRUCell(3, 4), {"weight_hh": Axes(groups=3)}),
    (nn.LSTMCell(3, 4), {"weight_ih": Axes(groups=4)}),
    (nn.BatchNorm2d(4), {"weight": Axes(), "bias": Axes()}),
    (nn.Embedding(5, 4), {"weight": Axes()}),
]


@pytest.mark.parametrize(("module", "expected"), CASES, ids=lambda x: type(x).__name__)
def test_axes_are_those_of_the_layer(module, expected):
    assert {name: axes_of(module, name) for name in expected} == expected


@pytest.mark.parametrize(("module", "_"), CASES, ids=lambda x: type(x).__name__)
def test_axes_fit_every_parameter(module, _):
    for name, parameter in module.named_parameters(recurse=False):
        axes = axes_of(module, name)
        matrices = axes.to_matrices(parameter)
        assert matrices.shape == axes.matrix_shape(parameter.shape)
        assert bool((axes.from_matrices(matrices, parameter.shape) == parameter).all())


def test_subclasses_have_the_axes_of_their_base():
    class Own(nn.LSTM):
        pass

    assert axes_of(Own(3, 4), "weight_ih_l0") == Axes(groups=4)


@pytest.mark.parametrize("layer", [nn.Conv2d(4, 6, 3, groups=2), nn.ConvTranspose2d(4, 6, 3, groups=2)])
def test_the_rows_are_the_output_channels(layer):
    """Scaling row i of the matrices scales output channel i, with the bias out of the way."""
    x = torch.randn(1, 4, 5, 5)
    axes = axes_of(layer, "weight")
    factors = torch.arange(1.0, 7.0)
    with torch.no_grad():
        layer.bias.zero_()
        before = layer(x)
        matrices = axes.to_matrices(layer.weight)
        rows = matrices * factors.reshape(2, 3, 1)
        layer.weight.copy_(axes.from_matrices(rows, layer.weight.shape))
        torch.testing.assert_close(layer(x), before * factors.reshape(1, 6, 1, 1))


@pytest.mark.parametrize("batch", [(), (2, 3)])
@pytest.mark.parametrize(("shape", "groups"), [((6, 2, 3), 1), ((6, 2, 3, 4), 2), ((4, 3, 2, 3, 5), 4)])
def test_a_spatial_reading_takes_the_last_axis_to_the_rows(shape, groups, batch):
    axes = Axes(groups=groups, spatial=True)
    weight = torch.randn(*batch, *shape)
    matrices = axes.to_matrices(weight, len(batch))
    assert matrices.shape[len(batch) :] == axes.matrix_shape(shape)
    assert torch.equal(axes.from_matrices(matrices, shape, len(batch)), weight)
    flat = weight.flatten(0, len(batch))[: shape[0]] if batch else weight
    first = matrices.flatten(0, len(batch))[:groups] if batch else matrices
    out, last = shape[0] // groups, shape[-1]
    for group in range(groups):
        for channel in range(out):
            for place in range(last):
                row = flat[group * out + channel][..., place].flatten()
                assert torch.equal(first[group, channel * last + place], row)


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: Axes(out=1, spatial=True), "out=0"),
        (lambda: Axes(spatial=True).to_matrices(torch.randn(3, 4)), "three axes"),
        (lambda: Axes(spatial=True).matrix_shape((5,)), "three axes"),
    ],
)
def test_what_cannot_be_read_spatially_is_refused(make, match):
    with pytest.raises(ValueError, match=match):
        make()


@pytest.mark.parametrize(
    ("layer", "spatial"),
    [
        (nn.Conv2d(4, 6, 3), True),
        (nn.Conv3d(4, 4, 2, groups=4), True),
        (nn.Conv2d(4, 6, (1, 3)), False),
        (nn.Conv2d(4, 6, (3, 1)), False),
        (nn.Conv2d(4, 6, 1), False),
        (nn.Conv1d(4, 6, 3), False),
        (nn.Linear(3, 4), False),
        (nn.ConvTranspose2d(4, 6, 3), False),
    ],
    ids=repr,
)
def test_convolutions_along_several_axes_are_read_spatially(layer, spatial):
    assert axes_in(Scheme.CHANNEL, layer) == axes_of(layer, "weight")
    assert axes_in(Scheme.SPATIAL, layer) == replace(axes_of(layer, "weight"), spatial=spatial)
