"""TorchScript takes what compressors make, or says what to do."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from torch import nn

from pliant.compress import Both, FilterPruning, Layers, LowRank, Scheme, TensorTrain, UnstructuredPruning, compress

COMPRESSORS = {
    "filters": FilterPruning(layers=Layers.ALL),
    "rank": LowRank(),
    "spatial": LowRank(scheme=Scheme.SPATIAL),
    "both": Both(FilterPruning(layers=Layers.ALL)),
    "weights": UnstructuredPruning(),
}
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning", "ignore::torch.jit.TracerWarning")


def compressed(compressor):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 24, 3), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 32), nn.ReLU(), nn.Linear(32, 5),
    )  # fmt: skip
    done = compress(model.eval(), compressor, 0.7, example=images(2))
    assert done.report.removed > 0
    return done.model.eval()


def images(count):
    return torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", COMPRESSORS)
def test_a_compressed_model_is_scripted_saved_and_loaded(name):
    model, file = compressed(COMPRESSORS[name]), io.BytesIO()
    torch.jit.save(torch.jit.script(copy.deepcopy(model)), file)
    file.seek(0)
    loaded = torch.jit.load(file)
    for count in (1, 3):
        torch.testing.assert_close(loaded(images(count)), model(images(count)))


def test_tensor_trains_are_traced_and_say_so():
    model = compressed(TensorTrain())
    with pytest.raises(NotImplementedError, match=r"cannot compile tensor-train layers, .*: use torch\.jit\.trace"):
        torch.jit.script(model)
    traced = torch.jit.trace(model, images(2))
    for count in (1, 3):
        torch.testing.assert_close(traced(images(count)), model(images(count)))
