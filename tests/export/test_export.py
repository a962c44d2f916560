from __future__ import annotations

import copy
import sys

import pytest
import torch
from torch import nn

from pliant.compress import FilterPruning, LowRank, Scheme, UnstructuredPruning, compress
from pliant.export import ExportError, MissingExportExtraError, to_onnx, to_torch_export
from pliant.models import create

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

COMPRESSORS = {
    "filters": FilterPruning(),
    "low-rank": LowRank(),
    "spatial": LowRank(scheme=Scheme.SPATIAL),
    "unstructured": UnstructuredPruning(),
}
FAST = [("lenet-5", "filters"), ("cnn-4", "low-rank"), ("cnn-4", "spatial")]
MODELS = ["lenet-5", "cnn-4", "resnet-20", "vit"]
ALL = [
    pytest.param(model, name, marks=[] if (model, name) in FAST else [pytest.mark.slow])
    for model in MODELS
    for name in COMPRESSORS
]


def _compressed(name, compressor, samples=1):
    torch.manual_seed(0)
    model = create(name, num_classes=10, in_channels=1, image_size=16)
    example = torch.randn(samples, 1, 16, 16)
    return compress(model, COMPRESSORS[compressor], 0.5, example=example).model, example


@pytest.mark.parametrize(("name", "compressor"), ALL)
def test_a_compressed_model_runs_in_onnxruntime_as_it_does_here(tmp_path, name, compressor):
    model, example = _compressed(name, compressor)
    check = to_onnx(model, example, tmp_path / "model.onnx")
    assert check.batches == (2, 3, 1)
    assert check.relative_difference < 1e-5
    assert check.bytes == (tmp_path / "model.onnx").stat().st_size
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"))
    x = torch.randn(7, 1, 16, 16)
    (found,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    torch.testing.assert_close(torch.as_tensor(found), model.eval()(x).detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("name", "compressor"), ALL)
def test_a_compressed_model_comes_back_from_torch_export(tmp_path, name, compressor):
    model, example = _compressed(name, compressor)
    check = to_torch_export(model, example, tmp_path / "model.pt2")
    assert check.relative_difference < 1e-6
    loaded = torch.export.load(tmp_path / "model.pt2").module()
    x = torch.randn(7, 1, 16, 16)
    torch.testing.assert_close(loaded(x), model.eval()(x))


def test_weights_too_large_for_one_file_move_into_one_beside_it(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules[to_onnx.__module__], "_LARGEST", 0)
    model = nn.Sequential(nn.Linear(64, 64), nn.Tanh())
    check = to_onnx(model, torch.randn(2, 64), tmp_path / "model.onnx")
    assert {path.name for path in tmp_path.iterdir()} == {"model.onnx", "model.onnx.data"}
    assert check.bytes == sum(path.stat().st_size for path in tmp_path.iterdir())
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"))
    x = torch.randn(3, 64)
    torch.testing.assert_close(torch.as_tensor(session.run(None, {"input": x.numpy()})[0]), model(x).detach())


class _Two(nn.Module):
    """Two batched inputs, one that is not, a dropout, and a nest of outputs."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(4, 3), nn.Linear(5, 3)
        self.drop = nn.Dropout(0.5)
        self.norm = nn.BatchNorm1d(3)

    def forward(self, x, pair, scale):
        y, weights = pair
        hidden = self.norm(self.drop(self.first(x) + self.second(y)))
        return {"scaled": hidden * scale, "both": (hidden, hidden @ weights)}


@pytest.mark.parametrize(("export", "file"), [(to_onnx, "m.onnx"), (to_torch_export, "m.pt2")])
def test_models_of_several_inputs_are_left_as_they_were(tmp_path, export, file):
    model = _Two()
    model.norm.eval()
    before, modes = copy.deepcopy(model.state_dict()), [module.training for module in model.modules()]
    example = (torch.randn(6, 4), [torch.randn(6, 5), torch.randn(3, 2)], 2.0)
    check = export(model, example, tmp_path / file)
    assert check.batches == (6, 7)
    assert modes == [module.training for module in model.modules()]
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert torch.backends.mha.get_fastpath_enabled()
    assert "compared on batches of 6 and 7" in str(check)


class _Named(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.head = nn.Embedding(7, 4), nn.Linear(4, 2)

    def forward(self, ids, mask=None, scale=None, *, extra=None):  # noqa: ARG002  (not given here)
        hidden = self.table(ids).mean(1)
        return self.head(hidden if scale is None else hidden * scale)


@pytest.mark.parametrize(("export", "file"), [(to_onnx, "m.onnx"), (to_torch_export, "m.pt2")])
def test_a_model_that_is_called_by_names_is_exported_by_places(tmp_path, export, file):
    example = {"scale": torch.rand(3, 1), "ids": torch.randint(7, (3, 5))}
    assert export(_Named(), example, tmp_path / file).relative_difference < 1e-5
    with pytest.raises(ExportError, match="'extra' has no place in"):
        export(_Named(), {**example, "extra": None}, tmp_path / file)


@pytest.mark.parametrize(("export", "file"), [(to_onnx, "m.onnx"), (to_torch_export, "m.pt2")])
def test_a_file_that_differs_is_never_there_and_an_old_one_stays(tmp_path, export, file):
    model, path = nn.Sequential(nn.Linear(4, 3), nn.Tanh()), tmp_path / file
    export(model, torch.randn(2, 4), path, dynamic_batch=False)
    content = path.read_bytes()
    with pytest.raises(ExportError, match="no file was written"):
        export(nn.Linear(4, 3), torch.randn(2, 4), path, tol=-1.0)  # nothing is that close
    assert path.read_bytes() == content
    assert [p.name for p in tmp_path.iterdir()] == [file]


class _Branching(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x


class _Fixed(nn.Module):
    def forward(self, x):
        return x.reshape(2, 12)


@pytest.mark.parametrize(("export", "file"), [(to_onnx, "m.onnx"), (to_torch_export, "m.pt2")])
def test_what_cannot_be_exported_says_so(tmp_path, export, file):
    with pytest.raises(ExportError, match="cannot export"):
        export(_Branching(), torch.randn(2, 3), tmp_path / file)
    with pytest.raises(ExportError, match=r"dynamic_batch=False"):
        export(_Fixed(), torch.randn(4, 6), tmp_path / file)
    export(_Fixed(), torch.randn(4, 6), tmp_path / file, dynamic_batch=False)
    with pytest.raises(ExportError, match="dynamic_batch=False"):
        export(nn.Identity(), torch.tensor(1.0), tmp_path / file)
    with pytest.raises(ValueError, match=r"torch\.compile"):
        export(nn.Sequential(torch.compile(nn.Linear(2, 2), backend="eager")), torch.randn(2, 2), tmp_path / file)
    assert [path.name for path in tmp_path.iterdir()] == [file]


def test_the_suffix_that_torch_wants_is_asked_for(tmp_path):
    with pytest.raises(ExportError, match=r"\.pt2"):
        to_torch_export(nn.Linear(2, 2), torch.randn(2, 2), tmp_path / "model.onnx")


@pytest.mark.parametrize("missing", ["onnx", "onnxscript", "onnxruntime"])
def test_a_missing_package_names_the_extra(tmp_path, monkeypatch, missing):
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(MissingExportExtraError, match=rf"'{missing}'.*pip install 'pliant\[export\]'"):
        to_onnx(nn.Linear(2, 2), torch.randn(2, 2), tmp_path / "model.onnx")


def test_half_precision_that_onnxruntime_cannot_run_is_refused(tmp_path):
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)).bfloat16()
    with pytest.raises(ExportError, match="onnxruntime"):
        to_onnx(model, torch.randn(2, 1, 8, 8).bfloat16(), tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_torchs_own_transformer_is_exported_with_its_fast_path_off(tmp_path):
    torch.manual_seed(0)
    model = nn.TransformerEncoder(
        nn.TransformerEncoderLayer(16, 4, 32, batch_first=True), 2, enable_nested_tensor=False
    )
    check = to_onnx(model, torch.randn(2, 5, 16), tmp_path / "model.onnx")
    assert check.relative_difference < 1e-5
