from __future__ import annotations

import pytest
import torch
from compressible import build

from pliant.compress import CutError, FilterPruning, LowRank, StoreError, UnstructuredPruning, compress, load, save


def _fresh(name):
    model, _ = build(name)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter)
    return model


@pytest.mark.parametrize("name", ["plain", "special", "attention"])
@pytest.mark.parametrize(
    "compressor", [FilterPruning(), LowRank(), UnstructuredPruning()], ids=lambda c: type(c).__name__
)
def test_a_loaded_model_is_the_saved_one(tmp_path, compressor, name):
    model, example = build(name)
    done = compress(model, compressor, 0.6, example=example, calibrate=[example])
    save(done, tmp_path / "small")
    loaded = load(tmp_path / "small", lambda: _fresh(name))
    assert torch.equal(loaded.eval()(example), done.model.eval()(example))
    assert not list((tmp_path / "small").glob("*.pt"))


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

    def factory():
        raise AssertionError("nothing must be built")

    with pytest.raises((StoreError, CutError)):
        load(folder, factory)


def test_another_architecture_or_other_weights_are_refused(folder):
    with pytest.raises(CutError):
        load(folder, lambda: _fresh("mlp"))
    model, example = build("mlp")
    save(compress(model, FilterPruning(), 0.5, example=example), folder / "other")
    (folder / "model.safetensors").write_bytes((folder / "other" / "model.safetensors").read_bytes())
    with pytest.raises(StoreError, match="does not fit"):
        load(folder, lambda: _fresh("plain"))
