"""Everything that reads a file, with whole files to begin from and the errors that it may raise."""

import gzip
import io
import json
import pickle
import struct
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from PIL import Image
from pyarrow import parquet
from torch import nn

from pliant import FilterPruning, LowRank, UnstructuredPruning, compress, save
from pliant.compress import CutError, StoreError, read_cut
from pliant.compress.tensor_file import TensorFile
from pliant.data import CorruptDataError
from pliant.data.idx import read_idx
from pliant.data.images import decode_resized
from pliant.data.parquet import ParquetImages
from pliant.data.safe_pickle import read_pickle
from pliant.models.blueprint import Blueprint, BlueprintError, read_blueprint
from pliant.report.rows import MetricsRow, RowError, SweepRow, read_rows
from pliant.seal import seal
from pliant.training.checkpoint import CheckpointError, Trainee, load_checkpoint, save_checkpoint
from pliant.training.folder import RunFolder, RunFolderError, RunInfo
from pliant.training.position import Position
from pliant.training.recipe import Recipe
from pliant.training.recipe_file import RecipeError

COUNT = 5


@dataclass(frozen=True)
class Reader:
    """One reader.

    Args:
        read: called with the path of the file.
        errors: that it may raise.
        seeds: whole files.
        name: of the file.
        words: that the format is made of.
        wrap: makes the file from what was mutated, such as a checksum that is right again.
    """

    read: Callable[[Path], object]
    errors: tuple[type[Exception], ...]
    seeds: list[bytes]
    name: str = "file"
    words: list[bytes] = field(default_factory=list)
    wrap: Callable[[bytes], bytes] = bytes


def _files(write) -> list[bytes]:
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder))
        return [path.read_bytes() for path in sorted(Path(folder).rglob("*")) if path.is_file()]


def _net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 3))


def _compressed(name: str) -> list[bytes]:
    def write(folder):
        for number, chosen in enumerate((FilterPruning(), LowRank(), UnstructuredPruning())):
            save(compress(_net(), chosen, 0.5, example=torch.zeros(1, 1, 8, 8)), folder / str(number))
        for path in [path for path in folder.rglob("*") if path.is_file() and path.name != name]:
            path.unlink()

    return _files(write)


def _trainee() -> Trainee:
    model = _net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model(torch.ones(2, 1, 8, 8)).sum().backward()
    optimizer.step()
    return Trainee(model, optimizer, torch.optim.lr_scheduler.StepLR(optimizer, 1))


def _checkpoints() -> list[bytes]:
    return _files(lambda folder: save_checkpoint(folder / "c.pt", _trainee(), Position.start(), seconds=1.0))


def _sealed(content: bytes) -> bytes:
    """Mend the checksum, so that what was changed is read."""
    end = content.rfind(b"PK\x05\x06")
    if end < 0 or end + 22 > len(content):
        return content
    return bytes(seal(io.BytesIO(content[: end + 20] + b"\0\0")))


def _pixels(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def _idx(array: np.ndarray) -> bytes:
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def _image(kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(_pixels(32, 32, 3)).save(buffer, kind)
    return buffer.getvalue()


def _parquet(**options) -> bytes:
    rows = [{"bytes": _image("PNG"), "path": "x.png"}] * COUNT
    buffer = io.BytesIO()
    parquet.write_table(pa.table({"img": rows, "label": list(range(COUNT))}), buffer, **options)
    return buffer.getvalue()


def _pickle(protocol: int) -> bytes:
    return pickle.dumps({b"data": _pixels(COUNT, 3072), b"labels": list(range(COUNT)), "x": ["a"]}, protocol=protocol)


def _read_tensors(path: Path) -> object:
    return [tensor.shape for _, tensor in TensorFile.read(path).load()]


def _read_recipe(path: Path) -> object:
    recipe = Recipe.from_yaml(path)
    path.write_text(recipe.to_yaml(), encoding="utf-8")
    if Recipe.from_yaml(path) != recipe:
        raise AssertionError("a recipe does not survive being written")
    return recipe


def _read_override(path: Path) -> object:
    text = path.read_bytes().decode("utf-8", "replace")
    path.write_bytes(RECIPES[0])
    return Recipe.from_yaml(path, [text])


def _read_rows(path: Path) -> object:
    try:
        return read_rows(path, MetricsRow)
    except RowError:
        return read_rows(path, SweepRow)


def _lines(*rows: dict) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


RECIPES = [
    b"""name: tiny
seed: 3
data: {name: digits, batch_size: 256, augment: true, holdout: 0.1}
model: {name: cnn-4, args: {widths: [4, 4, 4, 4]}}
train: {epochs: 2, device: cpu, threads: 1, precision: bfloat16}
method: {type: sfw, plan: filters, k: 0.3, radius: {type: init-scaled, scale: 10.0}}
sweep: {compressors: [filters, {type: low-rank, rule: energy}], fractions: [0.0, 0.5], calibrate: 128}
""",
    b"""name: "a-{seed}/b"
data:
  <<: {name: digits, root: null}
  args: &none {}
model: {name: cnn-4, args: *none}
method:
  type: sgd
  lr: 5e-4
  weight_decay: 1.0e-3
probe: {compressor: unstructured, fraction: 0.9}
""",
]
_YAML = [
    *(
        b"&a",
        b"*a",
        b"<<: ",
        b"!!binary ",
        b"!!python/object/apply:os.system [ls]",
        b"!!timestamp ",
        b"!!bool ",
        b"!!int ",
    ),
    *(
        b"!!float ",
        b"!!set ",
        b"!!omap ",
        b"[" * 9,
        b"{" * 9,
        b"? ",
        b"- ",
        b": ",
        b"# ",
        b"---",
        b"...",
        b"'",
        b'"',
        b"| ",
        b">",
    ),
    *(b".inf", b".nan", b"2026-99-99", b"0x", b"0b_", b"1:2:3", b"../..", b"/etc", b"~", b"null", b"type: ", b"name: "),
    *(b"method: ", b"%YAML 9.9", b"\x00", b"\n"),
]
_JSON = [
    *(
        b"null",
        b"true",
        b"NaN",
        b"Infinity",
        b"1e999",
        b"-1",
        b"[]",
        b"{}",
        b"[" * 9,
        b'{"a":',
        b'"\\ud800"',
        b'"',
        b",",
        b":",
    ),
    *(b'"type":', b'"schema":', b'"parts":', b'"kept":', b"../../x", b"/etc"),
]
_OPCODES = b"()]}0123.NRbcdegijlopqrstu\x80\x81\x85\x86\x87\x88\x8a\x8b\x8c\x8d\x8f\x90\x91\x92\x93\x94\x95"
_PICKLE = [
    *(bytes([code]) for code in _OPCODES),
    b"cos\nsystem\n",
    b"cbuiltins\neval\n",
    b"cnumpy\nndarray\n",
    b"cnumpy\ndtype\n",
    b"c_codecs\nencode\n",
    b"\x85" * 2000,
]


def readers() -> dict[str, Reader]:
    """Return all readers by name; making their seeds takes a moment."""
    return _text_readers() | _binary_readers() | _data_readers()


def _text_readers() -> dict[str, Reader]:
    overrides = [b"train.epochs=5", b"method={type: sgd, lr: 0.1}"]
    cuts, run = _compressed("cut.json"), _files(lambda folder: RunFolder(folder).write_info(RunInfo(seed=1)))
    metrics = {"epoch": 1, "train_loss": 1.0, "train_accuracy": 0.5, "eval_accuracy": 0.5, "lr": 0.1, "seconds": 1.0}
    sizes = {"parameters": 1, "macs": 2, "dense_parameters": 3, "dense_macs": 4}
    cut = {"compressor": "filters", "fraction": 0.5, "removed": 0.5, "raw": 0.5, "recalibrated": None} | sizes
    rows = [_lines(metrics, metrics), _lines(cut, cut)]
    blueprint = Blueprint("cnn-4", 10, 1, 8, (1, 1, 8, 8), {"widths": [4, 4, 4, 4]}).to_json().encode()
    return {
        "recipe": Reader(_read_recipe, (RecipeError,), RECIPES, words=_YAML),
        "override": Reader(_read_override, (RecipeError,), overrides, words=_YAML),
        "cut": Reader(lambda path: read_cut(path.parent), (CutError, StoreError), cuts, "cut.json", _JSON),
        "blueprint": Reader(lambda p: read_blueprint(p.parent), (BlueprintError,), [blueprint], "model.json", _JSON),
        "rows": Reader(_read_rows, (RowError,), rows, words=[*_JSON, b"\n"]),
        "run": Reader(lambda p: RunFolder(p.parent).read_info(), (RunFolderError,), run, "run.json", _JSON),
    }


def _binary_readers() -> dict[str, Reader]:
    weights, checkpoints, trainee, refused = (
        _compressed("model.safetensors"),
        _checkpoints(),
        _trainee(),
        CheckpointError,
    )

    def read(path):
        return load_checkpoint(path, trainee)

    return {
        "tensors": Reader(_read_tensors, (StoreError,), weights, words=_JSON),
        "checkpoint, damaged": Reader(read, (refused,), checkpoints),
        "checkpoint, hostile": Reader(read, (refused,), checkpoints, words=_PICKLE, wrap=_sealed),
    }


def _data_readers() -> dict[str, Reader]:
    idx = [_idx(_pixels(COUNT, 28, 28)), _idx(_pixels(2, 2, 2))]
    refused, table = (CorruptDataError,), ParquetImages(label="label", size=32)
    tables = [_parquet(), _parquet(compression="gzip", use_dictionary=False)]
    pictures = [_image(kind) for kind in ("PNG", "JPEG", "GIF", "TIFF")]
    pickles = [_pickle(protocol) for protocol in (0, 2, 4, 5)]
    return {
        "idx": Reader(_read_idx, refused, idx),
        "idx.gz, damaged": Reader(_read_idx, refused, list(map(gzip.compress, idx)), "a.gz"),
        "idx.gz, hostile": Reader(_read_idx, refused, idx, "a.gz", wrap=gzip.compress),
        "parquet": Reader(lambda path: table.read([path]), refused, tables),
        "pickle": Reader(read_pickle, refused, pickles, words=_PICKLE),
        "image": Reader(lambda path: decode_resized(path, size=32), refused, pictures),
    }


def _read_idx(path: Path) -> object:
    return read_idx(path, dims=3)
