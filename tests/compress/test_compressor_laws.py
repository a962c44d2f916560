"""The shipped law suite, over all compressors and architectures."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from compressible import ARCHITECTURES, build
from torch import nn

from pliant.compress import (
    L2,
    Energy,
    EqualError,
    FilterPruning,
    Folded,
    Global,
    GroupNorm,
    Layers,
    LowRank,
    PerLayer,
    Scheme,
    SquaredEnergy,
    UnstructuredPruning,
)
from pliant.models import create
from pliant.testing.compressor_laws import check_compressor
from pliant.testing.violation import LawViolation

COMPRESSORS = {
    "filters": FilterPruning(),
    "filters-l2-global": FilterPruning(L2(), Global()),
    "filters-group-all": FilterPruning(GroupNorm(), layers=Layers.ALL),
    "filters-folded": FilterPruning(Folded(), Global(minimum=2), layers=Layers.ALL),
    "rank": LowRank(),
    "rank-energy": LowRank(Energy()),
    "rank-squared": LowRank(SquaredEnergy(), layers=Layers.CONVOLUTIONS),
    "rank-error": LowRank(EqualError(), minimum=2),
    "rank-spatial": LowRank(scheme=Scheme.SPATIAL),
    "weights": UnstructuredPruning(),
    "weights-layer": UnstructuredPruning(PerLayer()),
}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("compressor", COMPRESSORS.values(), ids=COMPRESSORS)
def test_laws(compressor, architecture):
    check_compressor(compressor, *build(architecture))


@pytest.mark.parametrize("architecture", ["plain", "special", "transposed"])
@pytest.mark.parametrize("name", ["filters-group-all", "rank", "rank-spatial", "weights"])
def test_laws_in_float32(name, architecture):
    check_compressor(COMPRESSORS[name], *build(architecture, torch.float32), fractions=(0.5,))


@pytest.mark.parametrize("name", ["filters-group-all", "rank", "weights"])
def test_laws_in_bfloat16(name):
    check_compressor(COMPRESSORS[name], *build("mlp", torch.bfloat16), fractions=(0.5,), tol=0.05)


MODELS = {
    "cnn-4": {"widths": (6, 8, 8, 10)},
    "lenet-5": {"widths": (4, 8, 20)},
    "lenet-300-100": {"widths": (30, 20)},
    "resnet-20": {"widths": (4, 6, 8)},
    "vit": {"dim": 24, "depth": 2},
    "wide-resnet-28-10": {"depth": 10, "width": 1},
    "vgg-16-bn": {"widths": (4, 4, 6, 6, 6)},
}


@pytest.mark.parametrize("name", ["filters", "rank", "rank-spatial", "weights"])
@pytest.mark.parametrize("model", MODELS)
def test_laws_on_the_models_of_the_package(model, name):
    torch.manual_seed(0)
    built = create(model, num_classes=10, in_channels=3, image_size=16, **MODELS[model]).double()
    check_compressor(COMPRESSORS[name], built, torch.randn(4, 3, 16, 16).double(), fractions=(0.5,), train=False)


def test_a_frozen_channels_last_model_stays_frozen_and_channels_last():
    model, example = build("plain")
    model.requires_grad_(requires_grad=False)
    model.to(memory_format=torch.channels_last)
    for compressor in (FilterPruning(), LowRank(ignore=("0",))):
        check_compressor(compressor, model, example.to(memory_format=torch.channels_last), fractions=(0.5,))
        cut = compressor.select(model, 0.5, example=example)
        realised = compressor.realise(model, cut)
        assert not any(p.requires_grad for p in realised.parameters())
        weights = [m.weight for m in realised.modules() if isinstance(m, nn.Conv2d) and m.kernel_size != (1, 1)]
        assert all(w.is_contiguous(memory_format=torch.channels_last) for w in weights)


class _Dropping(nn.Module):
    """Dropout that no module stands for, and that of torch's attention."""

    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(12, 24), nn.Linear(24, 12)
        self.attention = nn.MultiheadAttention(12, 3, dropout=0.4, batch_first=True)

    def forward(self, x):
        hidden = F.dropout(self.up(x).relu(), 0.4, self.training)
        x = self.down(hidden)
        return self.attention(x, x, x)[0]


@pytest.mark.parametrize("compressor", [LowRank(), FilterPruning(layers=Layers.ALL)], ids=["rank", "filters"])
def test_dropout_does_nothing_wherever_it_is(compressor):
    torch.manual_seed(0)
    check_compressor(compressor, _Dropping(), torch.randn(2, 5, 12))


class _Mutating(FilterPruning.__bases__[0]):
    def select(self, model, fraction=None, *, budget=None, example):
        return FilterPruning().select(model, fraction, budget=budget, example=example)

    def truncate(self, model, cut):  # noqa: ARG002  (the interface)
        return model

    def realise(self, model, cut):  # noqa: ARG002  (the interface)
        return model


def test_the_suite_catches_a_compressor_that_returns_its_argument():
    with pytest.raises(LawViolation):
        check_compressor(_Mutating(), *build("plain"))
