from __future__ import annotations

import copy
import hashlib
import json
import logging
import os
import struct
import sys

import pytest
import torch
from compressible import build
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import nn

from pliant import atomic
from pliant.compress import (
    CutError,
    FilterPruning,
    LowRank,
    Scheme,
    StoreError,
    TensorTrain,
    UnstructuredPruning,
    compress,
    load,
    read_cut,
    save,
)


def _fresh(name, dtype=torch.float64):
    model, _ = build(name, dtype)
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    return model


def _never():
    raise AssertionError("nothing must be built")


@pytest.mark.parametrize("name", ["plain", "special", "attention"])
@pytest.mark.parametrize(
    "compressor",
    [FilterPruning(), LowRank(), LowRank(scheme=Scheme.SPATIAL), UnstructuredPruning()],
    ids=["filters", "rank", "spatial", "weights"],
)
def test_a_loaded_model_is_the_saved_one(tmp_path, compressor, name):
    model, example = build(name)
    done = compress(model, compressor, 0.6, example=example, calibrate=[example])
    save(done, tmp_path / "small")
    loaded = load(tmp_path / "small", lambda: _fresh(name))
    assert torch.equal(loaded.eval()(example), done.model.eval()(example))
    assert {path.name for path in (tmp_path / "small").iterdir()} == {"cut.json", "model.safetensors"}
    assert read_cut(tmp_path / "small") == done.cut


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_types_survive_and_another_type_is_refused(tmp_path, dtype):
    model, example = build("mlp", dtype)
    done = compress(model, FilterPruning(), 0.5, example=example)
    save(done, tmp_path)
    loaded = load(tmp_path, lambda: _fresh("mlp", dtype)).state_dict()
    assert all(torch.equal(tensor, loaded[name]) for name, tensor in done.model.state_dict().items())
    assert next(iter(loaded.values())).dtype == dtype
    with pytest.raises(StoreError, match="in its type"):
        load(tmp_path, lambda: _fresh("mlp", torch.float64))


class _Tied(nn.Module):
    """A tied output layer, a buffer that is not saved, and a buffer that is."""

    def __init__(self, scale=2.0):
        super().__init__()
        self.embed = nn.Linear(6, 12, bias=False)
        self.hidden = nn.Linear(12, 12)
        self.register_buffer("scale", torch.full((12,), scale), persistent=False)
        self.register_buffer("shift", torch.randn(12))
        self.head = nn.Linear(6, 12, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, x):
        hidden = self.hidden(self.embed(x)).relu() * self.scale + self.shift
        return hidden @ self.head.weight


def test_tied_weights_and_unsaved_buffers_come_back(tmp_path, caplog):
    done = compress(_Tied(), UnstructuredPruning(), 0.7, example=torch.randn(3, 6))
    save(done, tmp_path)
    assert set(load_file(tmp_path / "model.safetensors")) >= {"embed.weight", "shift"}
    assert not {"scale", "head.weight"} & set(load_file(tmp_path / "model.safetensors"))
    with caplog.at_level(logging.WARNING):
        loaded = load(tmp_path, _Tied)
    assert loaded.head.weight is loaded.embed.weight
    example = torch.randn(5, 6)
    assert torch.equal(loaded(example), done.model(example))
    assert not caplog.records
    load(tmp_path, lambda: _Tied(scale=3.0))
    assert "'scale'" in caplog.text


class Knotted(nn.Module):
    """Tied and frozen weights, a scalar, and convolutions that may lie with their channels last."""

    def __init__(self, temporary=False):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 16, 3)
        self.norm, self.inner, self.twin = nn.BatchNorm2d(16), nn.Linear(16, 16), nn.Linear(16, 16)
        self.twin.weight = self.inner.weight
        self.again = self.norm
        self.second.weight.requires_grad_(requires_grad=False)
        self.scale = nn.Parameter(torch.tensor(2.0))
        self.head = nn.Linear(16, 4)
        if temporary:
            self.register_buffer("shift", torch.ones(1), persistent=False)

    def forward(self, x):
        x = self.again(self.second(self.first(x).relu())).relu().mean((2, 3))
        return self.head(self.twin(self.inner(x).relu())) * self.scale


def _on_meta(**options):
    with torch.device("meta"):
        return Knotted(**options).to(memory_format=torch.channels_last)


@pytest.mark.parametrize("compressor", [FilterPruning(), LowRank(), TensorTrain(), UnstructuredPruning()])
def test_a_factory_may_build_without_memory(tmp_path, compressor):
    torch.manual_seed(0)
    model, example = Knotted().to(memory_format=torch.channels_last), torch.randn(2, 3, 8, 8)
    done = compress(model, compressor, 0.6, example=example, calibrate=[example])
    save(done, tmp_path / "small")
    loaded = load(tmp_path / "small", _on_meta)
    torch.testing.assert_close(loaded.eval()(example), done.model.eval()(example), rtol=0, atol=0)
    assert loaded.twin.weight is loaded.inner.weight
    ours, theirs = (dict(one.named_parameters()) for one in (loaded, done.model))
    assert {n: p.requires_grad for n, p in ours.items()} == {n: p.requires_grad for n, p in theirs.items()}
    assert {n: p.stride() for n, p in ours.items()} == {n: p.stride() for n, p in theirs.items()}


def test_a_factory_without_memory_must_not_make_buffers_that_no_file_holds(tmp_path):
    torch.manual_seed(0)
    done = compress(Knotted(temporary=True), FilterPruning(), 0.5, example=torch.randn(2, 3, 8, 8))
    save(done, tmp_path / "small")
    with pytest.raises(StoreError, match="the buffer 'shift' on the meta device, which is not part of the saved state"):
        load(tmp_path / "small", lambda: _on_meta(temporary=True))
    assert load(tmp_path / "small", lambda: Knotted(temporary=True)).shift == 1.0


def test_views_of_one_storage_are_written_apart(tmp_path):
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    model[2].weight = nn.Parameter(model[0].weight.data)
    done = compress(model, UnstructuredPruning(), 0.0, example=torch.randn(2, 4))
    with torch.no_grad():
        done.model[2].weight = nn.Parameter(done.model[0].weight.data)
    save(done, tmp_path)
    loaded = load(tmp_path, lambda: copy.deepcopy(model))
    assert torch.equal(loaded[2].weight, done.model[0].weight)


class _Extra(nn.Linear):
    def get_extra_state(self):
        return {"not": "a tensor"}

    def set_extra_state(self, state):
        pass


def test_state_that_is_no_tensor_is_refused_by_name(tmp_path):
    model = nn.Sequential(_Extra(4, 4), nn.ReLU(), nn.Linear(4, 2))
    with pytest.raises(StoreError, match=r"0\._extra_state"):
        save(compress(model, UnstructuredPruning(), 0.5, example=torch.randn(2, 4)), tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.fixture
def folder(tmp_path):
    model, example = build("plain")
    save(compress(model, FilterPruning(), 0.5, example=example), tmp_path)
    return tmp_path


def test_nothing_is_overwritten_silently(folder):
    model, example = build("plain")
    done = compress(model, FilterPruning(), 0.5, example=example)
    with pytest.raises(FileExistsError, match=r"cut\.json"):
        save(done, folder)
    save(done, folder, overwrite=True)


@pytest.mark.parametrize("moment", ["save_file", "fsync", "first rename", "last rename"])
def test_a_save_that_fails_leaves_the_old_model(folder, monkeypatch, moment):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    model, example = build("plain")
    done = compress(model, FilterPruning(), 0.8, example=example)
    renames, original = [], type(folder).replace

    def fail(*_args, **_keywords):
        raise OSError("no space left on device")

    def rename(path, target):
        renames.append(target)
        if len(renames) == (1 if moment == "first rename" else 2):
            fail()
        original(path, target)

    with monkeypatch.context() as patched:
        if moment == "save_file":
            patched.setattr(sys.modules[save.__module__], "save_file", fail)
        elif moment == "fsync":
            patched.setattr(os, "fsync", fail)
        else:
            patched.setattr(type(folder), "replace", rename)
        with pytest.raises(OSError, match="no space"):
            save(done, folder, overwrite=True)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    load(folder, lambda: _fresh("plain"))


def test_a_first_save_that_fails_leaves_nothing(tmp_path, monkeypatch):
    original = type(tmp_path).replace

    def rename(path, target):
        if target.name == "cut.json":
            raise OSError("disk on fire")
        return original(path, target)

    model, example = build("mlp")
    done = compress(model, FilterPruning(), 0.8, example=example)
    with monkeypatch.context() as patched:
        patched.setattr(type(tmp_path), "replace", rename)
        with pytest.raises(OSError, match="fire"):
            save(done, tmp_path / "small")
    assert list((tmp_path / "small").iterdir()) == []


def test_a_single_file_is_replaced_as_a_whole(tmp_path):
    path = tmp_path / "file.txt"
    atomic.write_text(path, "öld")
    with pytest.raises(FileNotFoundError), atomic.replacing([path, tmp_path / "other"]) as (first, _):
        first.write_text("written, but its companion is missing")
    assert path.read_text(encoding="utf-8") == "öld"
    atomic.write_text(path, "new")
    assert [p.name for p in tmp_path.iterdir()] == ["file.txt"]
    assert path.read_text(encoding="utf-8") == "new"


@pytest.mark.parametrize("name", ["cut.json", "model.safetensors"])
@pytest.mark.parametrize(
    "damage", [lambda _: b"", lambda data: data[: len(data) // 2], lambda _: b"\xff\x00" * 50, None]
)
def test_damaged_files_are_refused_before_anything_is_built(folder, name, damage):
    path = folder / name
    if damage is None:
        path.unlink()
    else:
        path.write_bytes(damage(path.read_bytes()))
    with pytest.raises((StoreError, CutError), match=name.replace(".", r"\.")):
        load(folder, _never)


def test_another_architecture_or_other_weights_are_refused(folder):
    with pytest.raises(CutError):
        load(folder, lambda: _fresh("mlp"))
    model, example = build("mlp")
    save(compress(model, FilterPruning(), 0.5, example=example), folder / "other")
    (folder / "model.safetensors").write_bytes((folder / "other" / "model.safetensors").read_bytes())
    with pytest.raises(StoreError, match="another's"):
        load(folder, _never)


def test_a_bare_cut_of_an_older_version_is_read_and_compared_with_the_model(folder):
    (folder / "cut.json").write_text(read_cut(folder).to_json())
    load(folder, lambda: _fresh("plain"))
    save_file({"0.weight": torch.zeros(3)}, folder / "model.safetensors")
    with pytest.raises(StoreError, match="does not fit the factory's model"):
        load(folder, lambda: _fresh("plain"))


def test_one_changed_bit_of_a_weight_is_found(folder):
    path = folder / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(StoreError, match="damaged"):
        load(folder, _never)


def _header(tensors, data=b""):
    text = json.dumps(tensors).encode()
    return struct.pack("<Q", len(text)) + text + data


HOSTILE_WEIGHTS = {
    "a header of a terabyte": struct.pack("<Q", 2**40) + b"{}",
    "a header larger than the file": struct.pack("<Q", 10**6) + b"{}",
    "a shape of 2**60": _header(
        {"0.weight": {"dtype": "F32", "shape": [2**30, 2**30], "data_offsets": [0, 4]}}, b"1234"
    ),
    "a shape that overflows": _header({"a": {"dtype": "F64", "shape": [2**63, 4], "data_offsets": [0, 8]}}, b"x" * 8),
    "a negative shape": _header({"a": {"dtype": "F64", "shape": [-1], "data_offsets": [0, 8]}}, b"x" * 8),
    "offsets behind the end": _header({"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}, b"x" * 8),
    "overlapping tensors": _header({n: {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]} for n in "ab"}, b"1234"),
    "a type nobody knows": _header({"a": {"dtype": "X99", "shape": [1], "data_offsets": [0, 4]}}, b"1234"),
    "a pickle": b"\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x94\x8c\x06system\x94\x93\x94.",
    "a path for a name": _header({"../../etc/passwd": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, b"1234"),
    "json that nests for ever": struct.pack("<Q", 10**5) + b"[" * 10**5,
}


@pytest.mark.parametrize("content", HOSTILE_WEIGHTS.values(), ids=HOSTILE_WEIGHTS)
def test_hostile_weights_are_refused_by_name(folder, content):
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(StoreError, match=r"model\.safetensors"):
        load(folder, _never)
    (folder / "cut.json").write_text(read_cut(folder).to_json())  # without hashes
    with pytest.raises(StoreError, match=r"model\.safetensors"):
        load(folder, lambda: _fresh("plain"))


HOSTILE_CUTS = {
    "nesting": "[" * 10**6,
    "a number of a million digits": '{"format": ' + "9" * 10**6 + "}",
    "a key given twice": '{"format": "pliant compressed model", "format": "other"}',
    "not a number": '{"format": NaN}',
    "no object": "[1, 2]",
    "another schema": '{"format": "pliant compressed model", "schema": 99, "weights": {}, "cut": {}}',
    "a boolean schema": '{"format": "pliant compressed model", "schema": true, "weights": {}, "cut": {}}',
    "another format": '{"format": {"__class__": "os.system"}, "schema": 1}',
    "unknown fields": '{"format": "pliant compressed model", "schema": 1, "weights": {}, "cut": {}, "exec": "rm"}',
    "no hashes": '{"format": "pliant compressed model", "schema": 1, "weights": {}, "cut": {}}',
    "a hash that is none": json.dumps(
        {
            "format": "pliant compressed model",
            "schema": 1,
            "weights": {"sha256": "../x", "layout": "", "buffers": {}},
            "cut": {},
        }
    ),
    "a cut of nothing": json.dumps(
        {
            "format": "pliant compressed model",
            "schema": 1,
            "weights": {"sha256": "0" * 64, "layout": "0" * 64, "buffers": {}},
            "cut": {},
        }
    ),
}


@pytest.mark.parametrize("text", HOSTILE_CUTS.values(), ids=HOSTILE_CUTS)
def test_hostile_cuts_are_refused(folder, text):
    (folder / "cut.json").write_text(text)
    with pytest.raises((StoreError, CutError)):
        load(folder, _never)


def test_a_giant_cut_is_refused_by_its_size_alone(folder):
    with (folder / "cut.json").open("r+b") as file:
        file.truncate(2**40)  # a hole: takes no room
    with pytest.raises(StoreError, match="at most"):
        load(folder, _never)


@pytest.mark.parametrize("name", ["cut.json", "model.safetensors"])
def test_links_are_followed_to_files_and_to_nothing_else(folder, name):
    real = folder / "elsewhere"
    (folder / name).rename(real)
    (folder / name).symlink_to(real)
    load(folder, lambda: _fresh("plain"))
    for target in ("/dev/zero", folder, folder / "nothing"):
        (folder / name).unlink()
        (folder / name).symlink_to(target)
        with pytest.raises(StoreError, match=name.replace(".", r"\.")):
            load(folder, _never)
    (folder / name).unlink()
    os.mkfifo(folder / name)
    with pytest.raises(StoreError, match="plain file"):
        load(folder, _never)


def test_saving_over_a_link_replaces_the_link_and_not_what_it_leads_to(folder, tmp_path_factory):
    outside = tmp_path_factory.mktemp("outside") / "precious"
    outside.write_text("precious")
    (folder / "cut.json").unlink()
    (folder / "cut.json").symlink_to(outside)
    model, example = build("plain")
    save(compress(model, FilterPruning(), 0.5, example=example), folder, overwrite=True)
    assert outside.read_text() == "precious"
    load(folder, lambda: _fresh("plain"))


def _digest(folder):
    loaded = load(folder, lambda: _fresh("mlp", torch.float32))
    return hashlib.sha256(b"".join(t.numpy().tobytes() for t in loaded.state_dict().values())).hexdigest()


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    folder = tmp_path_factory.mktemp("small")
    model, example = build("mlp", torch.float32)
    save(compress(model, FilterPruning(), 0.5, example=example), folder)
    return folder, {path.name: path.read_bytes() for path in folder.iterdir()}, _digest(folder)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    name=st.sampled_from(["cut.json", "model.safetensors"]),
    where=st.floats(0, 1, exclude_max=True),
    length=st.integers(0, 20),
    put=st.binary(max_size=20),
)
def test_whatever_happens_to_a_file_it_is_refused_or_the_model_is_the_same(small, name, where, length, put):
    folder, contents, digest = small
    for file, content in contents.items():
        (folder / file).write_bytes(content)
    content = contents[name]
    start = int(where * len(content))
    (folder / name).write_bytes(content[:start] + put + content[start + length :])
    try:
        found = _digest(folder)
    except (StoreError, CutError):
        return
    assert found == digest
