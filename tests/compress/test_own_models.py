"""What people's own models are like: each is cut exactly, or refused with a word on what to do."""

from __future__ import annotations

import collections
import copy
import dataclasses
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from pliant.compress import Both, Compressor, FilterPruning, Layers, LowRank, UnstructuredPruning, compress, load, save
from pliant.compress.compressed import largest_difference
from pliant.metrics.latency import Latency
from pliant.structure.channels import channel_graph
from pliant.testing import LawViolation, check_compressor

ALL = FilterPruning(layers=Layers.ALL)
COMPRESSORS = {"filters": ALL, "rank": LowRank(), "both": Both(ALL), "weights": UnstructuredPruning()}


def images(count=2):
    return torch.randn(count, 3, 8, 8)


def body(norm=nn.BatchNorm2d):
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False), norm(8), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), norm(8), nn.ReLU()
    )


class Classifier(nn.Module):
    def __init__(self, features=None):
        super().__init__()
        self.features, self.head = features or body(), nn.Linear(8, 4)

    def forward(self, x):
        return self.head(self.features(x).mean((2, 3)))


class Named(nn.Module):
    """Is called by names, as models of Hugging Face are."""

    def __init__(self):
        super().__init__()
        self.table, self.first, self.norm, self.head = (
            nn.Embedding(11, 6),
            nn.Linear(6, 12),
            nn.BatchNorm1d(12),
            nn.Linear(12, 3),
        )

    def forward(self, input_ids, attention_mask=None, scale=None):
        hidden = self.table(input_ids).mean(1)
        if attention_mask is not None:
            hidden = hidden * attention_mask.mean(1, keepdim=True)
        hidden = self.norm(self.first(hidden)).relu()
        return {"logits": self.head(hidden if scale is None else hidden * scale)}


def tokens(count=16, kind=dict):
    return kind({"scale": torch.tensor(2.0), "input_ids": torch.randint(11, (count, 5))})


class FrozenNorm2d(nn.Module):
    """Batch norm of constants that are buffers, as detection backbones have it."""

    def __init__(self, width):
        super().__init__()
        for name in ("weight", "running_var"):
            self.register_buffer(name, torch.rand(width) + 0.5)
        for name in ("bias", "running_mean"):
            self.register_buffer(name, torch.randn(width))

    def forward(self, x):
        scale = self.weight * (self.running_var + 1e-5).rsqrt()
        return x * scale[:, None, None] + (self.bias - self.running_mean * scale)[:, None, None]


def frozen_statistics():
    model = Classifier()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval().requires_grad_(requires_grad=False)
    return model


class Buffers(nn.Module):
    """Means of the data, a counter, a table of the width of a layer, and one that is not saved."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.randn(3, 1, 1))
        self.register_buffer("seen", torch.tensor(0))
        self.register_buffer("gain", torch.rand(8, 1, 1) + 0.5)
        self.register_buffer("shift", torch.randn(8, 1, 1), persistent=False)
        self.first, self.second, self.head = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 6, 3), nn.Linear(6, 4)

    def forward(self, x):
        if self.training:
            self.seen += 1
        y = F.relu(self.first(x - self.mean) * self.gain + self.shift)
        return self.head(F.relu(self.second(y)).mean((2, 3)))


class Block(nn.Sequential):
    def forward(self, x):
        return x + super().forward(x)


class Twice(nn.Module):
    """One layer under two names, and a pair of layers called again and again."""

    def __init__(self):
        super().__init__()
        self.stem, self.conv, self.norm = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.first, self.head = nn.Conv2d(8, 8, 1), nn.Linear(8, 4)
        self.again = self.first

    def forward(self, x):
        x = self.stem(x)
        for _ in range(2):
            x = F.relu(self.norm(self.conv(x)))
        return self.head(F.relu(self.again(F.relu(self.first(x)))).mean((2, 3)))


@dataclasses.dataclass
class Out:
    logits: Tensor
    details: object


class Returning(Classifier):
    """Returns its outputs in whatever `how` makes of them."""

    def __init__(self, how):
        super().__init__()
        self.how, self.other = how, nn.Linear(8, 2)

    def forward(self, x):
        y = self.features(x).mean((2, 3))
        return self.how(self.head(y), self.other(y))


HOW = {
    "dict": lambda a, b: {"a": a, "name": "x", "b": [b, None]},
    "tuple": lambda a, b: (a, b),
    "dataclass": lambda a, b: Out(a, {"b": b}),
}


class Recurrent(nn.Module):
    """Convolutions, then a recurrent layer over the pixels."""

    def __init__(self, kind):
        super().__init__()
        self.features, self.memory, self.head = body(), kind(8, 6, batch_first=True), nn.Linear(6, 4)

    def forward(self, x):
        return self.head(self.memory(self.features(x).flatten(2).mT)[0][:, -1])


def dropouts():
    return nn.Sequential(
        body(), nn.Dropout2d(0.5), nn.Flatten(), nn.Dropout(0.3), nn.Linear(512, 16), nn.AlphaDropout(0.2),
        nn.Linear(16, 4),
    ).train()  # fmt: skip


def old_weight_norm():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return nn.utils.weight_norm(nn.Conv2d(3, 8, 3, padding=1))


def run_once(model):
    with torch.no_grad():
        model(images())
    return model


PARAMETRISED = {
    "weight norm": lambda: parametrizations.weight_norm(nn.Conv2d(3, 8, 3)),
    "spectral norm": lambda: parametrizations.spectral_norm(nn.Conv2d(3, 8, 3)),
    "old weight norm, after a call": lambda: run_once(old_weight_norm()),
    "old spectral norm": lambda: nn.utils.spectral_norm(nn.Conv2d(3, 8, 3)),
}


def parametrised(name):
    return Classifier(nn.Sequential(PARAMETRISED[name](), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU()))


MODELS = {
    "frozen norm of buffers": lambda: Classifier(body(FrozenNorm2d)),
    "frozen statistics": frozen_statistics,
    "frozen": lambda: Classifier().requires_grad_(requires_grad=False),
    "buffers": Buffers,
    "subclass of Sequential": lambda: Classifier(
        nn.Sequential(nn.Conv2d(3, 8, 1), Block(nn.Conv2d(8, 12, 3, padding=1), nn.ReLU(), nn.Conv2d(12, 8, 1)))
    ),
    "layers called twice": Twice,
    "dropout": dropouts,
    **{kind.__name__: lambda kind=kind: Recurrent(kind) for kind in (nn.LSTM, nn.GRU, nn.RNN)},
    "data parallel": lambda: nn.DataParallel(Classifier()),
    **{f"returns a {name}": lambda how=how: Returning(how) for name, how in HOW.items()},
    **{name: lambda name=name: parametrised(name) for name in PARAMETRISED},
}


@pytest.mark.parametrize("compressor", COMPRESSORS)
@pytest.mark.parametrize("name", MODELS)
def test_it_is_cut_exactly(name, compressor):
    torch.manual_seed(0)
    model, example = MODELS[name]().double(), images().double()
    check_compressor(COMPRESSORS[compressor], model, example, fractions=(0.5,))


@pytest.mark.parametrize("name", MODELS)
def test_it_is_saved_and_loaded(name, tmp_path):
    torch.manual_seed(0)
    model, example = MODELS[name](), images()
    done = compress(model, Both(ALL), 0.5, example=example)
    assert done.cut.parameters < done.cut.dense_parameters
    save(done, tmp_path)
    again = load(tmp_path, lambda: copy.deepcopy(model))
    assert largest_difference(done.model.eval()(example), again.eval()(example))[0] == 0.0


@pytest.mark.parametrize("name", PARAMETRISED)
def test_a_computed_weight_stays_by_name(name):
    model = parametrised(name)
    for compressor in (ALL, LowRank()):
        cut = compressor.select(model, 0.5, example=images())
        assert "features.2" in cut.reduced()
        assert cut.skipped["features.0"]


def test_outputs_in_a_dataclass_are_compared_and_their_layers_kept():
    model, example = Returning(HOW["dataclass"]), images()
    for compressor in (ALL, LowRank()):
        assert {"head", "other"} <= set(compressor.select(model, 0.5, example=example).skipped)
    first, second = Out(torch.ones(2), {"b": torch.ones(3)}), Out(torch.ones(2), {"b": torch.full((3,), 3.0)})
    assert largest_difference(first, second) == (2.0, 1.0)


class Broken(Compressor):
    """Its realised model computes something else."""

    def select(self, model, fraction=None, *, budget=None, example):
        return LowRank().select(model, fraction, budget=budget, example=example)

    def truncate(self, model, cut):
        return LowRank().truncate(model, cut)

    def realise(self, model, cut):
        realised = LowRank().realise(model, cut)
        with torch.no_grad():
            realised.head.bias += 1.0
        return realised


def test_the_laws_see_a_mistake_in_a_dataclass():
    with pytest.raises(LawViolation, match="identity"):
        check_compressor(Broken(), Returning(HOW["dataclass"]), images())


@pytest.mark.parametrize("how", [lambda *found: (x for x in found), lambda *_: None, lambda *_: 3.0])
@pytest.mark.parametrize("compressor", COMPRESSORS)
def test_outputs_that_nobody_can_look_into_are_refused(how, compressor):
    with pytest.raises(ValueError, match="the model must return tensors"):
        compress(Returning(how), COMPRESSORS[compressor], 0.5, example=images())


def test_the_memory_format_changes_nothing():
    torch.manual_seed(0)
    model = nn.Sequential(body(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))
    example = images()
    last = copy.deepcopy(model).to(memory_format=torch.channels_last)
    given = example.to(memory_format=torch.channels_last)
    assert channel_graph(last, given) == channel_graph(model, example)
    for compressor in COMPRESSORS.values():
        check_compressor(compressor, last, given, fractions=(0.5,))
        assert compressor.select(last, 0.5, example=given) == compressor.select(model, 0.5, example=example)
    small = ALL.realise(last, ALL.select(last, 0.5, example=given))
    assert small[0][3].weight.is_contiguous(memory_format=torch.channels_last)


def test_a_cut_found_on_one_sample_holds_for_any_number():
    torch.manual_seed(0)
    model = Classifier().double()
    for compressor in COMPRESSORS.values():
        cut = compressor.select(model, 0.5, example=images(1).double())
        truncated, realised = compressor.truncate(model, cut).eval(), compressor.realise(model, cut).eval()
        for count in (1, 7):
            x = images(count).double()
            torch.testing.assert_close(realised(x), truncated(x), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("compressor", COMPRESSORS)
def test_half_precision_is_cut_up_to_its_rounding(compressor, dtype):
    torch.manual_seed(0)
    model, example = Classifier().to(dtype), images().to(dtype)
    check_compressor(COMPRESSORS[compressor], model, example, fractions=(0.5,), tol=0.05)
    done = compress(model, COMPRESSORS[compressor], 0.5, example=example)
    assert {p.dtype for p in done.model.parameters()} == {dtype}


def under_inference_mode():
    with torch.inference_mode():
        return Classifier()


UNFIT = {
    "lazy": (lambda: nn.Sequential(nn.LazyConv2d(8, 3), nn.Flatten()), "'0.weight' must have a shape"),
    "scripted": (lambda: torch.jit.script(nn.Sequential(nn.Conv2d(3, 8, 3))), "the model must not be TorchScript"),
    "scripted part": (lambda: Classifier(torch.jit.script(nn.Conv2d(3, 8, 3))), "'features' must not be TorchScript"),
    "inference": (under_inference_mode, r"'features\.0\.weight' must be an ordinary tensor"),
    "old weight norm": (lambda: Classifier(old_weight_norm()), "'features' must hold no tensor .* found 'weight'"),
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:Lazy modules:UserWarning")
@pytest.mark.parametrize("compressor", COMPRESSORS)
@pytest.mark.parametrize("name", UNFIT)
def test_what_cannot_be_looked_at_is_refused_with_a_word_on_what_to_do(name, compressor):
    build, message = UNFIT[name]
    with pytest.raises(ValueError, match=message):
        compress(build(), COMPRESSORS[compressor], 0.5, example=images())


@pytest.mark.parametrize("kind", [dict, collections.UserDict])
@pytest.mark.parametrize("compressor", COMPRESSORS.values(), ids=COMPRESSORS)
def test_a_model_is_called_by_names(compressor, kind):
    model, example = Named().eval(), tokens(kind=kind)
    batches = [tokens(kind=kind), tokens(kind=kind)]
    for repair in ({}, {"calibrate": batches}, {"reconstruct": batches}, {"repair": batches}):
        done = compress(model, compressor, 0.5, example=example, **repair)
        assert done.report.removed > 0
        assert done.report.relative_difference < 1e-6
        assert done.report.macs == done.report.predicted_macs
    by_place = compress(model, compressor, 0.5, example=(example["input_ids"], None, example["scale"]))
    assert by_place.cut == compress(model, compressor, 0.5, example=example).cut
    check_compressor(compressor, model, example)


def test_a_model_that_is_called_by_names_meets_budgets_and_is_timed():
    done = compress(Named(), ALL, macs=0.6, example=tokens(), latency=Latency(seconds=0.01))
    assert done.report.macs <= 0.6 * done.report.dense_macs
    assert done.report.after.latency.shapes == ((), (16, 5))


def vectors():
    return torch.randn(8, 4)


class Forked(nn.Module):
    """A part of it runs only if it is asked for."""

    def __init__(self):
        super().__init__()
        self.first, self.head, self.aux = nn.Linear(4, 16), nn.Linear(16, 3), nn.Linear(16, 2)
        self.gain = nn.Parameter(torch.rand(16))

    def forward(self, x, aux=False):
        hidden = self.first(x).relu()
        return (self.head(hidden), self.aux(hidden * self.gain)) if aux else self.head(hidden)


def test_what_the_example_does_not_run_is_named():
    done = compress(Forked(), ALL, 0.5, example=vectors())
    assert set(done.report.skipped) == {"aux", "gain", "head"}
    assert "code that does may not fit what was cut" in done.report.skipped["gain"]
    assert "code that does may not fit what was cut" in done.report.skipped["aux"]
    both = compress(Forked(), ALL, 0.5, example=(vectors(), True))
    assert set(both.report.skipped) == {"aux", "head"}
    assert both.model.gain.shape == (8,)


class StepReader(nn.Module):
    """A recurrent layer reads what a convolution, a table or a linear layer makes."""

    def __init__(self, first, layer):
        super().__init__()
        self.first, self.layer, self.head = first, layer, nn.Linear(6, 3)

    def forward(self, x):
        x = self.first(x).relu()
        steps = x.transpose(1, 2) if isinstance(self.first, nn.Conv1d) else x
        if isinstance(self.layer, nn.RNNCellBase):
            state = steps.new_zeros(len(steps), 6)
            for step in steps.unbind(1):
                state = self.layer(step, state)
            return self.head(state)
        return self.head(self.layer(steps)[0][:, -1])


RECURRENT = {
    "LSTM": lambda: StepReader(nn.Conv1d(4, 10, 3), nn.LSTM(10, 3, num_layers=2, bidirectional=True, batch_first=True)),
    "LSTM, projected": lambda: StepReader(nn.Conv1d(4, 10, 3), nn.LSTM(10, 8, proj_size=6, batch_first=True)),
    "GRU": lambda: StepReader(nn.Linear(9, 10), nn.GRU(10, 6, batch_first=True)),
    "RNN": lambda: StepReader(nn.Linear(9, 10), nn.RNN(10, 6, batch_first=True)),
    "GRUCell": lambda: StepReader(nn.Linear(9, 10), nn.GRUCell(10, 6)),
}


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
@pytest.mark.parametrize("make", RECURRENT.values(), ids=RECURRENT)
def test_what_a_recurrent_layer_reads_is_cut(make, tmp_path):
    model, example = make(), torch.randn(3, 4, 9)
    done = compress(model, ALL, 0.5, example=example)
    assert done.report.removed == 5
    assert done.model.layer.input_size == 5
    check_compressor(ALL, model, example)
    save(done, tmp_path / "small")
    x = torch.randn(2, 4, 9)
    assert torch.equal(load(tmp_path / "small", make)(x), done.model(x))
