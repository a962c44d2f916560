"""Linear layers whose weight lies the other way round, as those of GPT-2, are cut like any other."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import pliant
from pliant.compress import Both, FilterPruning, Layers, LowRank, Macs, UnstructuredPruning, compress, load, save
from pliant.compress.budgets import LatencyTarget, measure_latencies
from pliant.compress.factor import Factors
from pliant.structure.matricise import axes_of, is_input_first, is_layer, widths
from pliant.testing import check_compressor


class Conv1D(nn.Module):
    """x W + b with W of shape (in, out), and nothing that a type could tell."""

    def __init__(self, nf, nx, *, bias=True):
        super().__init__()
        self.nf, self.nx = nf, nx
        self.weight = nn.Parameter(torch.randn(nx, nf) * nx**-0.5)
        if bias:
            self.bias = nn.Parameter(torch.randn(nf))

    def forward(self, x):
        product = x @ self.weight
        return product + self.bias if "bias" in self._parameters else product


class Doubled(Conv1D):
    def forward(self, x):
        return 2 * super().forward(x)


class Refusing(Conv1D):
    def forward(self, x):
        if x.dim() != 3:
            raise RuntimeError("three dimensions, please")
        return super().forward(x)


def mlp(kind=Conv1D, *, bias=True):
    torch.manual_seed(0)
    layers = kind(24, 10, bias=bias), nn.GELU(), kind(20, 24, bias=bias), nn.ReLU(), nn.Linear(20, 4)
    return nn.Sequential(*layers).double(), torch.randn(3, 5, 10).double()


def as_linear(model):
    """The same net of torch's own layers."""
    twin = copy.deepcopy(model)
    for name, layer in model.named_children():
        if is_input_first(layer):
            biased = "bias" in dict(layer.named_parameters())
            linear = nn.Linear(layer.nx, layer.nf, bias=biased, dtype=layer.weight.dtype)
            state = {key: value.mT if key == "weight" else value for key, value in layer.state_dict().items()}
            linear.load_state_dict(state)
            setattr(twin, name, linear)
    return twin


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    "compressor",
    [LowRank(), FilterPruning(), Both(), UnstructuredPruning(), LowRank(layers=Layers.LINEARS)],
    ids=lambda c: type(c).__name__,
)
def test_laws(compressor, bias):
    check_compressor(compressor, *mlp(bias=bias))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("request_", [{"fraction": 0.6}, {"macs": 0.5}, {"params": 0.5}], ids=str)
@pytest.mark.parametrize("compressor", [LowRank(), FilterPruning(), Both()], ids=lambda c: type(c).__name__)
def test_it_is_cut_like_the_same_net_of_plain_linear_layers(compressor, request_, bias):
    model, example = mlp(bias=bias)
    plain = as_linear(model)
    ours, theirs = (compress(m, compressor, example=example, **request_) for m in (model, plain))
    assert (ours.cut.kept, ours.cut.macs) == (theirs.cut.kept, theirs.cut.macs)
    assert ours.report.parameters == theirs.report.parameters < ours.report.dense_parameters
    torch.testing.assert_close(ours.model(example), theirs.model(example), rtol=1e-10, atol=1e-10)


def test_a_rank_becomes_two_plain_layers_that_answer_for_the_old_one():
    model, example = mlp()
    small = compress(model, LowRank(), 0.7, example=example).model
    assert isinstance(small[0], Factors)
    assert [type(factor) for factor in small[0]] == [nn.Linear, nn.Linear]
    assert (small[0].nx, small[0].nf) == (10, 24)


@pytest.mark.parametrize("compressor", [LowRank(), FilterPruning(), Both()], ids=lambda c: type(c).__name__)
def test_it_is_saved_and_loaded(tmp_path, compressor):
    model, example = mlp()
    done = compress(model, compressor, 0.6, example=example)
    save(done, tmp_path)
    assert torch.equal(load(tmp_path, lambda: mlp()[0])(example), done.model(example))


def test_a_plan_holds_it_as_it_holds_a_linear_layer():
    model, example = mlp()
    plain = as_linear(model)
    for make in (pliant.Plan.for_low_rank, pliant.Plan.for_filters, pliant.Plan.for_unstructured):
        ours, theirs = make(model, k=0.3), make(plain, k=0.3)
        assert [group.names for group in ours] == [group.names for group in theirs]
        for mine, other in zip(ours, theirs, strict=True):
            if isinstance(mine.target, pliant.Ball):
                assert mine.target.radius == pytest.approx(other.target.radius, rel=1e-12)
    coupled = pliant.Plan.for_filters(model, k=0.3, coupled=True, example=example)
    assert {"0.weight", "2.weight"} <= {name for group in coupled for name in group.names if len(group.names) > 1}


def test_singular_values_and_filters_are_those_of_the_transpose():
    layer = Conv1D(6, 4)
    axes = axes_of(layer, "weight")
    assert torch.equal(axes.to_matrices(layer.weight)[0], layer.weight.mT)
    assert widths(layer) == (6, 4, 1)


def test_latencies_are_measured_and_met():
    model, example = mlp()
    table = measure_latencies(model, example, threads=1, seconds=1e-4, shares=(0.5, 1.0))
    assert set(table.layers) == {"0", "2", "4"}
    for compressor in (FilterPruning(), LowRank()):
        cut = compressor.select(model, budget=LatencyTarget(1.0, table), example=example)
        assert cut.budget.reached == pytest.approx(table.predict(compressor.realise(model, cut)), rel=1e-9)


@pytest.mark.parametrize(("kind", "state"), [(Doubled, "is not the product"), (Refusing, "is not the product")])
def test_a_layer_that_only_looks_like_one_is_left_alone_by_name(kind, state):
    model, example = mlp(kind)
    cut = LowRank().select(model, 0.5, example=example)
    assert state in cut.skipped["0"]
    assert set(cut.atoms) <= {"4"}


def _with(module, **numbers):
    vars(module).update(numbers)
    return module


class Two(Conv1D):
    def __init__(self):
        super().__init__(6, 4)
        self.more = nn.Parameter(torch.ones(2))


@pytest.mark.parametrize(
    "module",
    [
        nn.Identity(),
        _with(nn.Identity(), nx=3, nf=3),
        _with(Conv1D(6, 4), nx=6, nf=4),
        _with(Conv1D(6, 4), nf=None),
        _with(Conv1D(6, 4), nf="6"),
        Two(),
        _with(nn.Sequential(Conv1D(6, 4)), nx=4, nf=6),
        nn.Linear(4, 6),
    ],
    ids=range(8),
)
def test_what_declares_something_else_is_none(module):
    assert not is_input_first(module)
    assert is_layer(module) == isinstance(module, nn.Linear)


def test_hooks_of_a_layer_do_not_run_while_it_is_looked_at():
    model, example = mlp()
    calls = []
    model[0].register_forward_hook(lambda *_: calls.append(1))
    cut = LowRank().select(model, budget=Macs(0.9), example=example)
    assert "hooks" in cut.skipped["0"]
    runs = len(calls)
    LowRank().realise(model, cut)
    assert len(calls) == runs


def test_it_is_what_transformers_calls_conv1d():
    kind = pytest.importorskip("transformers.pytorch_utils").Conv1D
    torch.manual_seed(0)
    model = nn.Sequential(kind(24, 10), nn.GELU(), kind(20, 24), nn.Linear(20, 4)).double()
    for compressor in (LowRank(), FilterPruning(), Both()):
        check_compressor(compressor, model, torch.randn(3, 10).double())
    assert set(LowRank().select(model, 0.7, example=torch.randn(3, 10).double()).reduced()) == {"0", "2"}
