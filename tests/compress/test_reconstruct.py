from __future__ import annotations

import copy
import types

import pytest
import torch
import torch.nn.functional as F
from compressible import build
from torch import nn

from pliant.compress import (
    Both,
    FilterPruning,
    LowRank,
    Macs,
    Scheme,
    TensorTrain,
    UnstructuredPruning,
    compress,
    output_difference,
    recalibrate_batchnorm,
    reconstruct,
    sweep,
)
from pliant.compress.factor import split
from pliant.models import create
from pliant.structure.matricise import axes_in

SPATIAL = LowRank(scheme=Scheme.SPATIAL)
COMPRESSORS = [FilterPruning(), LowRank(), SPATIAL, UnstructuredPruning(), Both(), Both(low_rank=SPATIAL)]


def _data(seed, count, shape):
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + 0.5


def _linear():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(12, 10), nn.ReLU(), nn.Linear(10, 6)).double()


def _truncated(model, compressor, fraction, example):
    cut = compressor.select(model, fraction, example=example)
    return compressor.truncate(model, cut), cut


def _inputs_of(model, name, x):
    found = []
    handle = model.get_submodule(name).register_forward_pre_hook(lambda _, inputs: found.append(inputs[0]))
    with torch.no_grad():
        model.eval()(x)
    handle.remove()
    return found[0]


def _error(layer, x, y):
    with torch.no_grad():
        return float((layer(x) - y).square().mean())


def test_a_linear_layer_gets_the_least_squares_solution():
    """Against `torch.linalg.lstsq` on the columns that are left."""
    model, x = _linear(), _data(1, 400, (12,))
    truncated, cut = _truncated(model, FilterPruning(), 0.5, x)
    found = reconstruct(truncated, model, cut, [x[:150], x[150:]], ridge=1e-12, rows=1000)
    kept = list(cut.listed("0"))
    read = _inputs_of(found, "2", x)[:, kept]
    rows = torch.cat([read, torch.ones(len(x), 1, dtype=x.dtype)], 1)
    wanted = torch.linalg.lstsq(rows, model(x).detach()).solution
    torch.testing.assert_close(found[2].weight[:, kept], wanted[:-1].T, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(found[2].bias, wanted[-1], rtol=1e-6, atol=1e-8)


def test_a_rank_gets_the_best_weights_of_that_rank():
    """Against many steps of gradient descent on two factors, which is no closed form."""
    model, x = _linear(), _data(2, 300, (12,)) @ torch.diag(torch.linspace(0.1, 3.0, 12, dtype=torch.float64))
    truncated, cut = _truncated(model, LowRank(), 0.5, x)
    assert cut.count("0") < 10
    found = reconstruct(truncated, model, cut, [x], ridge=1e-9, rows=1000)
    rank = cut.count("0")
    assert torch.linalg.matrix_rank(found[0].weight.detach(), rtol=1e-9) == rank
    wanted = model[0](x).detach()
    best = _error(found[0], x, wanted)
    assert best < _error(truncated[0], x, wanted)
    torch.manual_seed(0)
    left, right = (torch.randn(*shape, dtype=torch.float64, requires_grad=True) for shape in ((10, rank), (rank, 12)))
    bias = torch.zeros(10, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([left, right, bias], max_iter=2000, line_search_fn="strong_wolfe", tolerance_change=0)

    def closure():
        optimizer.zero_grad()
        loss = (x @ (left @ right).T + bias - wanted).square().mean()
        loss.backward()
        return loss

    for _ in range(5):
        slow = optimizer.step(closure).item()
    assert best <= slow * (1 + 1e-6)
    assert best >= slow * (1 - 1e-2)


@pytest.mark.parametrize("compressor", COMPRESSORS, ids=lambda c: type(c).__name__)
@pytest.mark.parametrize("name", ["plain", "residual", "attention", "special", "transposed", "conv1d"])
def test_the_result_is_realised_as_exactly_as_before(name, compressor):
    model, example = build(name)
    model = model.double()
    example = example.double() if example.is_floating_point() else example
    truncated, cut = _truncated(model, compressor, 0.5, example)
    before = copy.deepcopy(truncated.state_dict())
    found = reconstruct(truncated, model, cut, [example, example[:1]])
    difference, largest = output_difference(found, compressor.realise(found, cut), example)
    assert difference <= 1e-9 * max(largest, 1.0)
    for key, tensor in truncated.named_parameters():
        if not isinstance(compressor, LowRank):
            gone = tensor == 0.0
            if isinstance(compressor, Both) and tensor.ndim > 1:  # rows and columns
                gone = ~(tensor.flatten(1).any(1)[:, None] & tensor.flatten(1).any(0)).view(tensor.shape)
            assert (found.get_parameter(key)[gone] == 0.0).all(), key
    assert all(torch.equal(tensor, before[key]) for key, tensor in truncated.state_dict().items())


@pytest.mark.parametrize("compressor", [SPATIAL, Both(low_rank=SPATIAL)], ids=["rank", "both"])
@pytest.mark.parametrize("groups", [2, 8])
def test_groups_with_nothing_left_are_reconstructed(groups, compressor):
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=groups), nn.BatchNorm2d(8))
    model = nn.Sequential(*layers, nn.ReLU(), nn.Conv2d(8, 8, 1), nn.ReLU(), nn.Conv2d(8, 2, 1)).eval()
    with torch.no_grad():
        model[3].weight[: 8 // groups] = 0.0
    x = _data(2, 20, (3, 9, 9)).float()
    for fraction in (0.3, 0.6):
        done = compress(model, compressor, fraction, example=x, reconstruct=[x])
        assert all(bool(value.isfinite().all()) for value in done.model.state_dict().values())
        truncated, cut = _truncated(model, compressor, fraction, x)
        found = reconstruct(truncated, model, cut, [x])
        difference, largest = output_difference(found, compressor.realise(found, cut), x)
        assert difference <= 1e-5 * largest


def test_a_spatial_rank_stays_what_it_is_where_kernels_have_zeros_of_their_own():
    torch.manual_seed(0)
    layer = nn.Conv2d(4, 6, 3)
    with torch.no_grad():
        layer.weight[:2, ..., 2] = 0.0  # two filters do not look to the right
        layer.weight[:, 1, 0] = 0.0
    model = nn.Sequential(layer, nn.ReLU(), nn.Conv2d(6, 2, 1)).double()
    x = _data(3, 60, (4, 8, 8))
    truncated, cut = _truncated(model, SPATIAL, 0.6, x)
    found = reconstruct(truncated, model, cut, [x])[0].weight.detach()
    matrices = axes_in(Scheme.SPATIAL, layer).to_matrices(found)
    assert int(torch.linalg.matrix_rank(matrices, rtol=1e-9).max()) == cut.count("0")
    assert not found[:2, ..., 2].any()
    assert not found[:, 1, 0].any()
    assert int((found != 0.0).sum()) == int((layer.weight != 0.0).sum())


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("fraction", [0.5, 0.8])
def test_a_spatial_rank_gets_weights_as_good_as_long_descent_finds(fraction, groups):
    """Against many steps of quasi-Newton descent on the two convolutions, begun at the singular vectors."""
    torch.manual_seed(0)
    first, layer = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 8, (3, 2), groups=groups)
    model = nn.Sequential(first, nn.ReLU(), layer, nn.ReLU(), nn.Conv2d(8, 2, 1)).double()
    x = F.interpolate(_data(2, 30, (3, 5, 5)), scale_factor=2.0, mode="bilinear")  # neighbours alike, as in images
    pruning = LowRank(ignore=("0",), scheme=Scheme.SPATIAL)
    truncated, cut = _truncated(model, pruning, fraction, x)
    found = reconstruct(truncated, model, cut, [x], ridge=1e-9, rows=10**6)
    read = _inputs_of(model, "2", x)
    wanted = layer(read).detach()
    error = _error(found[2], read, wanted)
    assert error < 0.7 * _error(truncated[2], read, wanted)
    difference, largest = output_difference(found, pruning.realise(found, cut), x)
    assert difference <= 1e-9 * largest
    slow = split(truncated[2], cut.count("2"), Scheme.SPATIAL)
    optimizer = torch.optim.LBFGS(slow.parameters(), max_iter=3000, line_search_fn="strong_wolfe", tolerance_change=0)

    def closure():
        optimizer.zero_grad()
        loss = (slow(read) - wanted).square().mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    assert error <= 1.05 * closure().item()


CONVOLUTIONS = {
    "stride": lambda: nn.Conv2d(8, 8, 3, stride=2, padding=1),
    "dilation": lambda: nn.Conv2d(8, 8, (3, 2), dilation=(2, 1), bias=False),
    "circular": lambda: nn.Conv2d(8, 8, 3, padding=1, padding_mode="circular"),
    "reflect": lambda: nn.Conv2d(8, 8, 5, padding="same", padding_mode="reflect"),
    "even-same": lambda: nn.Conv2d(8, 8, (2, 4), padding="same"),
    "valid": lambda: nn.Conv2d(8, 8, 3, padding="valid"),
}
COPIES = (2, 3, 6, 7)


def _with_copies(first, *rest):
    """A model whose first layer has channels that are half of others: what they say can be said without them."""
    with torch.no_grad():
        for copied in COPIES:
            first.weight[copied] = 0.5 * first.weight[copied - 2]
            first.bias[copied] = 0.5 * first.bias[copied - 2]
    return nn.Sequential(first, *rest).double()


def _check_recovers(model, x):
    truncated, cut = _truncated(model, FilterPruning(), 0.5, x)
    assert set(range(8)) - set(cut.listed("0")) == set(COPIES)
    found = reconstruct(truncated, model, cut, [x[:40], x[40:]], ridge=1e-11, rows=100_000)
    lost, largest = output_difference(truncated, model, x)
    assert lost > 1e-2 * largest
    assert output_difference(found, model, x)[0] < 1e-6 * largest


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths:UserWarning")
@pytest.mark.parametrize("kind", CONVOLUTIONS)
def test_convolutions_of_all_kinds_recover_what_they_can(kind):
    torch.manual_seed(0)
    model = _with_copies(nn.Conv2d(3, 8, 1), CONVOLUTIONS[kind](), nn.ReLU())
    _check_recovers(model, _data(3, 60, (3, 8, 9)))


def test_a_grouped_convolution_gets_a_solution_for_each_group():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(8, 8, 1), nn.Tanh(), nn.Conv2d(8, 6, 3, groups=2, padding=(1, 2))).double()
    x = _data(4, 20, (8, 8, 9))
    truncated, cut = _truncated(model, UnstructuredPruning(ignore=("2",)), 0.6, x)
    found = reconstruct(truncated, model, cut, [x], ridge=1e-12, rows=10**6)
    patches = F.unfold(_inputs_of(found, "2", x), 3, padding=(1, 2)).movedim(1, 2).flatten(0, 1)
    wanted = model(x).detach().flatten(2).movedim(1, 2).flatten(0, 1)
    for group, columns in enumerate(patches.split(36, dim=1)):
        rows = torch.cat([columns, torch.ones(len(columns), 1, dtype=x.dtype)], 1)
        outputs = slice(3 * group, 3 * group + 3)
        solution = torch.linalg.lstsq(rows, wanted[:, outputs]).solution
        torch.testing.assert_close(found[2].weight[outputs].flatten(1), solution[:-1].T, rtol=1e-6, atol=1e-7)
        torch.testing.assert_close(found[2].bias[outputs], solution[-1], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(("dims", "kind"), [(1, nn.Conv1d), (3, nn.Conv3d)])
def test_convolutions_of_other_dimensions_too(dims, kind):
    torch.manual_seed(0)
    model = _with_copies(kind(3, 8, 1), kind(8, 5, 2, stride=2, padding=1), nn.ReLU())
    _check_recovers(model, _data(4, 60, (3, *(4, 5, 3)[:dims])))


def test_linear_layers_on_sequences_too():
    torch.manual_seed(0)
    _check_recovers(_with_copies(nn.Linear(5, 8), nn.Linear(8, 6), nn.Tanh()), _data(5, 60, (7, 5)))


def test_few_rows_are_nearly_as_good_as_all():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 8, 3), nn.ReLU()).double()
    x = _data(6, 200, (3, 12, 12))
    truncated, cut = _truncated(model, FilterPruning(ignore=("2",)), 0.5, x)
    wanted = model(x).detach()
    cut_error, few, all_rows = (
        float((found(x).detach() - wanted).square().mean())
        for found in (
            truncated,
            reconstruct(truncated, model, cut, [x], rows=8),
            reconstruct(truncated, model, cut, [x], rows=10**6),
        )
    )
    assert all_rows <= few < 1.3 * all_rows
    assert few < cut_error


def test_statistics_are_those_of_the_repaired_model():
    torch.manual_seed(0)
    model = create("cnn-4", num_classes=10, in_channels=1, image_size=28).double()
    x = _data(7, 32, (1, 28, 28))
    truncated, cut = _truncated(model, FilterPruning(), 0.5, x)
    found = reconstruct(truncated, model, cut, [x])
    again = recalibrate_batchnorm(found, [x])
    assert output_difference(found, again, x)[0] < 1e-9


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_a_cut_of_nothing_changes_no_weight(dtype):
    model, x = _linear().to(dtype), _data(8, 50, (12,)).to(dtype)
    truncated, cut = _truncated(model, FilterPruning(), 0.0, x)
    found = reconstruct(truncated, model, cut, [x])
    assert all(torch.equal(a, b) for a, b in zip(found.parameters(), model.parameters(), strict=True))


def test_layers_that_are_ignored_or_of_another_kind_stay():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4)).double()
    x = _data(9, 200, (16,))
    truncated, cut = _truncated(model, LowRank(), 0.5, x)
    found = reconstruct(truncated, model, cut, [x], ignore=("2",))
    assert torch.equal(found[2].weight, truncated[2].weight)
    assert not torch.equal(found[0].weight, truncated[0].weight)
    trains = TensorTrain()
    truncated, cut = _truncated(model, trains, 0.5, x)
    assert cut.reduced()
    found = reconstruct(truncated, model, cut, [x])
    for name in cut.reduced():
        assert torch.equal(found.get_submodule(name).weight, truncated.get_submodule(name).weight)
    assert not torch.equal(found[4].weight, truncated[4].weight)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_lower_precision_gets_nearly_the_same(dtype):
    model, x = _linear(), _data(10, 400, (12,))
    truncated, cut = _truncated(model, FilterPruning(), 0.5, x)
    wide = reconstruct(truncated, model, cut, [x])
    narrow = reconstruct(truncated.to(dtype), model.to(dtype), cut, [x.to(dtype)])
    assert narrow[2].weight.dtype == dtype
    tolerance = {torch.float32: 1e-4, torch.bfloat16: 0.1}[dtype]
    torch.testing.assert_close(narrow[2].weight.double(), wide[2].weight, rtol=tolerance, atol=tolerance)


def test_compress_and_sweep_take_batches_for_it():
    torch.manual_seed(0)
    model = create("cnn-4", num_classes=10, in_channels=1, image_size=28)
    x = _data(11, 64, (1, 28, 28)).float()
    wanted = model.eval()(x).detach()

    def closeness(found):
        with torch.no_grad():
            return -float((found.eval()(x) - wanted).square().mean())

    plain = compress(model, FilterPruning(), macs=0.5, example=x[:1], calibrate=[x])
    done = compress(model, FilterPruning(), macs=0.5, example=x[:1], reconstruct=[x])
    assert done.report.reconstructed
    assert done.report.recalibrated
    assert not plain.report.reconstructed
    assert done.report.macs == plain.report.macs <= 0.5 * done.report.dense_macs
    assert closeness(done.model) > closeness(plain.model)
    for realise in (False, True):
        (row,) = sweep(
            model, FilterPruning(), [0.5], example=x[:1], evaluate=closeness, calibrate=[x], reconstruct=[x],
            realise=realise, budget=Macs,
        )  # fmt: skip
        assert row.recalibrated == pytest.approx(closeness(plain.model), rel=1e-3)
        assert row.reconstructed == pytest.approx(closeness(done.model), rel=1e-3)


@pytest.mark.parametrize("compressor", COMPRESSORS, ids=lambda c: type(c).__name__)
@pytest.mark.parametrize("batch", ["constant", "single", "zero", "far"])
def test_where_little_is_to_be_learnt_the_cut_stays_exact(compressor, batch):
    """Where nothing varies, damping would vanish with it, and rounding would pass for variance."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 10), nn.ReLU(), nn.Linear(10, 8), nn.ReLU(), nn.Linear(8, 4))
    x = torch.randn(50, 12)
    seen = {"constant": torch.ones(50, 12), "single": x[:1], "zero": torch.zeros(9, 12), "far": x + 2000.0}[batch]
    truncated, cut = _truncated(model, compressor, 0.6, x)
    found = reconstruct(truncated, model, cut, [seen])
    difference, largest = output_difference(found, compressor.realise(found, cut), x)
    assert difference <= 1e-4 * largest
    assert output_difference(model, found, seen)[0] <= 1.01 * output_difference(model, truncated, seen)[0]
    for fitted, before in zip(found.parameters(), model.parameters(), strict=True):
        assert fitted.ndim == 1 or fitted.abs().max() < 5 * before.abs().max()


def test_a_constant_that_is_gone_comes_back_as_bias():
    model, x = _linear(), _data(13, 400, (12,))
    with torch.no_grad():
        model[0].weight[:5] = 0.0
        model[0].bias[:5] = 1.0
        model[0].weight[5:] *= 3.0
    truncated, cut = _truncated(model, FilterPruning(), 0.5, x)
    assert cut.listed("0") == (5, 6, 7, 8, 9)
    assert output_difference(truncated, model, x)[0] > 0.1
    assert output_difference(reconstruct(truncated, model, cut, [x]), model, x)[0] < 1e-9


def test_a_second_time_changes_little_and_brings_nothing_back():
    torch.manual_seed(0)
    model = create("cnn-4", num_classes=10, in_channels=1, image_size=28)
    x = _data(14, 100, (1, 28, 28)).float()
    truncated, cut = _truncated(model, Both(), 0.3, x)
    once = reconstruct(truncated, model, cut, [x])
    twice = reconstruct(once, model, cut, [x])
    for name, tensor in truncated.named_parameters():
        if tensor.ndim > 1:
            gone = ~tensor.flatten(1).any(1)
            assert not once.get_parameter(name)[gone].any()
            assert not twice.get_parameter(name)[gone].any()
    difference, largest = output_difference(twice, Both().realise(twice, cut), x)
    assert difference <= 1e-5 * largest


class _Conv(nn.Conv2d):
    """A layer whose forward pass may be anything: it is not fitted."""


def test_statistics_after_layers_that_are_not_fitted_are_recomputed_first():
    torch.manual_seed(0)
    model = nn.Sequential(
        _Conv(3, 16, 3, bias=False), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 8, 3, bias=False), nn.BatchNorm2d(8)
    ).double()
    x = _data(15, 60, (3, 9, 9))
    model.train()(x)
    truncated, cut = _truncated(model.eval(), UnstructuredPruning(ignore=("3",)), 0.7, x)
    found = reconstruct(truncated, model, cut, [x])
    after = reconstruct(recalibrate_batchnorm(truncated, [x]), model, cut, [x])
    assert output_difference(found, after, x)[0] < 1e-6


def test_single_samples_without_a_batch_dimension():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3)).double()
    x = _data(16, 4, (3, 9, 10))
    truncated, cut = _truncated(model, FilterPruning(), 0.5, x)
    one = reconstruct(truncated, model, cut, list(x), rows=10**6)
    many = reconstruct(truncated, model, cut, [x], rows=10**6)
    torch.testing.assert_close(one[2].weight, many[2].weight)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_batches_that_are_not_finite_are_refused(value):
    model, x = _linear(), _data(17, 20, (12,))
    truncated, cut = _truncated(model, LowRank(), 0.5, x)
    x[3, 2] = value
    with pytest.raises(ValueError, match="layer '0' reads or writes infinite or undefined"):
        reconstruct(truncated, model, cut, [x])


def test_bad_input_is_named():
    model, x = _linear(), _data(12, 20, (12,))
    truncated, cut = _truncated(model, LowRank(), 0.5, x)
    with pytest.raises(ValueError, match="at least one batch"):
        reconstruct(truncated, model, cut, [])
    with pytest.raises(ValueError, match="ridge must be positive"):
        reconstruct(truncated, model, cut, [x], ridge=0.0)
    with pytest.raises(ValueError, match="rows must be an int"):
        reconstruct(truncated, model, cut, [x], rows=0)
    with pytest.raises(ValueError, match="ignore must be"):
        reconstruct(truncated, model, cut, [x], ignore="0")
    with pytest.raises(ValueError, match="truncated"):
        reconstruct(LowRank().realise(model, cut), model, cut, [x])
    with pytest.raises(ValueError, match="reconstruct must be re-iterable"):
        sweep(model, LowRank(), [0.5], example=x, evaluate=lambda _: 0.0, reconstruct=iter([x]))
    with pytest.raises(TypeError) as caught:
        reconstruct(truncated, model, cut, [(x, torch.zeros(20))])
    assert "Inputs(batches)" in caught.value.__notes__[0]
    with pytest.raises(ValueError, match="choose one"):
        compress(model, LowRank(), 0.5, example=x, repair=[x], reconstruct=[x])


class _Scaled(nn.Module):
    """A model that takes a second argument, so that its batches are more than one tensor."""

    def __init__(self, model):
        super().__init__()
        self.model = model
        self.calls = 0

    def forward(self, x, scale=1.0):
        self.calls += 1
        return self.model(x) * scale


def _with_reference(model, compressor, example):
    truncated, cut = _truncated(model, compressor, 0.4, example)
    return truncated, model, cut


def _deep(norm):
    torch.manual_seed(0)
    blocks = [[nn.Conv2d(6, 6, 3, padding=1, bias=False), norm(6), nn.ReLU()] for _ in range(4)]
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), *[m for b in blocks for m in b], nn.Flatten(), nn.Linear(6 * 36, 5)
    ).double()


@pytest.mark.parametrize(
    "norm", [nn.BatchNorm2d, nn.Identity, lambda width: nn.BatchNorm2d(width, track_running_stats=False)]
)
@pytest.mark.parametrize("compressor", [FilterPruning(), LowRank()])
def test_all_batches_at_once_are_as_good_as_one_after_the_other(norm, compressor):
    """Statistics on the way differ by what a batch's own do, and nothing else does."""
    model, x = _deep(norm), _data(1, 90, (3, 6, 6))
    model.train()(x)
    truncated, cut = _truncated(model, compressor, 0.4, x[:2])
    batches = [x[:40], x[40:80], x[80:]]
    joined = reconstruct(truncated, model, cut, batches, rows=10_000)
    scaled = _Scaled(model)
    pairs = [(batch, 1.0) for batch in batches]
    single = reconstruct(*_with_reference(scaled, compressor, x[:2]), pairs, rows=10_000).model
    exact = {} if norm is nn.Identity else {"rtol": 0.05, "atol": 0.05}
    torch.testing.assert_close(joined.eval()(x), single.eval()(x), **exact)


def _pair_of_repairs(model, compressor, x, sizes):
    """Repair with batches that can be joined, and with the same ones that cannot."""
    batches = list(x.split(sizes))
    truncated, cut = _truncated(model, compressor, 0.4, x[:4])
    scaled = _Scaled(model)
    pairs = [(batch, 1.0) for batch in batches]
    given = _with_reference(scaled, compressor, x[:4])
    return (
        reconstruct(truncated, model, cut, batches, rows=10_000).eval(),
        reconstruct(*given, pairs, rows=10_000).model.eval(),
    )


EARLY = ("0", "3", "model.0", "model.3")  # by itself, and in the wrapper


@pytest.mark.parametrize("compressor", [LowRank(ignore=EARLY), FilterPruning(ignore=EARLY)])
def test_norms_before_the_first_change_are_measured_too(compressor):
    """The statistics that come with the model are not those of the batches."""
    torch.manual_seed(0)
    blocks = [[nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU()] for _ in range(4)]
    model = nn.Sequential(*[m for b in blocks for m in b], nn.Flatten(), nn.Linear(4 * 36, 5)).double()
    model.train()(1.5 * _data(2, 200, (4, 6, 6)) + 0.3)
    joined, single = _pair_of_repairs(model, compressor, _data(1, 400, (4, 6, 6)), 200)
    y, x = _data(3, 50, (4, 6, 6)), model.eval()
    with torch.no_grad():
        near = float((joined(y) - single(y)).norm() / (single(y) - x(y)).norm())
    assert near < 0.2


class _Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = (nn.Conv2d(4, 4, 3, padding=1, bias=False) for _ in range(2))
        self.norm, self.head = nn.BatchNorm2d(4), nn.Linear(4 * 36, 5)

    def forward(self, x):
        return self.head(self.norm(self.second(self.norm(self.first(x)).relu())).relu().flatten(1))


class _Branches(nn.Module):
    """The branch that mixes samples is not the last."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(6, 8), nn.Linear(6, 8)
        self.norm, self.c = nn.BatchNorm1d(8, track_running_stats=False), nn.Linear(8, 8)

    def forward(self, x):
        mixed = self.c(self.norm(self.a(x)).relu())
        return mixed, self.b(x)


class _TimeFirst(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(6, 8), nn.Linear(8, 4)

    def forward(self, x):
        return self.two(self.one(x.transpose(0, 1)).relu()).mean(0)


def _refusing(error):
    class Refusing(nn.Sequential):
        def forward(self, x):
            if len(x) not in (1, 4, 40):
                raise error("one size only")
            return super().forward(x)

    return Refusing(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4))


@pytest.mark.parametrize(
    ("build", "shape"),
    [
        (_Twice, (4, 6, 6)),
        (_Branches, (6,)),
        (_TimeFirst, (16, 6)),
        (lambda: _refusing(ValueError), (6,)),
        (lambda: _refusing(AssertionError), (6,)),
    ],
)
def test_what_cannot_be_joined_is_run_batch_by_batch(build, shape):
    torch.manual_seed(0)
    model = build().double()
    x = _data(1, 120, shape).sort(0)[0]
    if isinstance(model, _Branches):
        model = _First(model)
    joined, single = _pair_of_repairs(model, LowRank(), x, 40)
    torch.testing.assert_close(joined(x[:40]), single(x[:40]))


class _First(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return torch.cat(self.inner(x), dim=1)


def test_activations_that_write_over_what_a_layer_wrote_change_nothing():
    torch.manual_seed(0)
    layers = [nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 8), nn.ReLU(), nn.Linear(8, 4)]
    plain = nn.Sequential(*layers).double()
    twin = nn.Sequential(layers[0], nn.ReLU(inplace=True), layers[2], nn.ReLU(inplace=True), layers[4])
    x = _data(1, 200, (6,))
    for fraction in (0.0, 0.5):
        found = []
        for model in (plain, twin):
            cut = LowRank().select(model, fraction, example=x[:2])
            found.append(reconstruct(LowRank().truncate(model, cut), model, cut, [x[:100], x[100:]]))
        for name, weight in found[0].named_parameters():
            assert torch.equal(weight, found[1].get_parameter(name))
            assert fraction > 0.0 or torch.equal(weight, plain.get_parameter(name))


def test_frozen_norms_keep_their_statistics():
    class Frozen(nn.BatchNorm1d):
        def train(self, mode=True):  # noqa: ARG002
            return super().train(mode=False)

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), Frozen(8), nn.ReLU(), nn.Linear(8, 4)).double()
    model[1].running_mean.fill_(0.3)
    x = _data(1, 200, (6,))
    truncated, cut = _truncated(model, LowRank(), 0.5, x)
    for found in (reconstruct(truncated, model, cut, [x]), recalibrate_batchnorm(model, [x])):
        assert torch.equal(found[1].running_mean, model[1].running_mean)


def test_the_models_run_as_often_for_many_layers_as_for_few():
    x, calls = _data(1, 90, (3, 6, 6)), []
    for norm in (nn.Identity, nn.BatchNorm2d):
        for layers in (6, 14):
            torch.manual_seed(0)
            blocks = [[nn.Conv2d(3, 3, 3, padding=1, bias=False), norm(3)] for _ in range(layers)]
            model = _Scaled(nn.Sequential(*[m for b in blocks for m in b])).double()
            truncated, cut = _truncated(model, FilterPruning(), 0.4, x[:2])
            found = reconstruct(truncated, model, cut, [x[:50], x[50:]])
            calls.append(found.calls + model.calls)
    assert calls[0] == calls[1]
    assert calls[2] == calls[3]


def test_a_model_that_takes_batches_of_one_size_only():
    torch.manual_seed(0)
    inner = nn.Sequential(
        nn.Linear(6, 8), nn.ReLU(), nn.Unflatten(0, (5, 10)), nn.Flatten(0, 1), nn.Linear(8, 4)
    ).double()
    x = _data(1, 100, (6,))
    truncated, cut = _truncated(inner, FilterPruning(), 0.5, x[:50])
    found = reconstruct(truncated, inner, cut, [x[:50], x[50:]])
    assert _error(found, x[:50], inner(x[:50]).detach()) < _error(truncated, x[:50], inner(x[:50]).detach())


def test_a_hook_that_changes_what_a_layer_wrote_changes_nothing_of_the_fit():
    found = []
    for hooked in (False, True):
        model, x = _linear(), _data(21, 200, (12,))
        if hooked:
            model[2].register_forward_hook(lambda _, __, output: 3 * output)
        truncated, cut = _truncated(model, FilterPruning(), 0.5, x)
        found.append(reconstruct(truncated, model, cut, [x]).state_dict())
    torch.testing.assert_close(found[1], found[0])


def test_a_layer_with_a_forward_of_its_own_is_left_as_it_is():
    model, x = _linear(), _data(22, 200, (12,))
    model[2].forward = types.MethodType(lambda self, x: 3 * F.linear(x, self.weight, self.bias), model[2])
    truncated, cut = _truncated(model, FilterPruning(), 0.5, x)
    found = reconstruct(truncated, model, cut, [x])
    assert torch.equal(found[2].weight, truncated[2].weight)
