"""Nothing that pliant loads runs code, leaves its folder, or takes memory out of proportion to its size."""

import ast
import gzip
import io
import os
import pickle
import resource
import struct
import time
import zlib
from pathlib import Path

import pyarrow as pa
import pytest
import torch
from faulty_runs import faulty, stop_after
from PIL import Image
from pyarrow import parquet

import pliant
from pliant.compress import CutError, StoreError, read_cut
from pliant.data import CorruptDataError, UnsafePickleError
from pliant.data.idx import read_idx
from pliant.data.images import decode_exact, decode_resized
from pliant.data.parquet import ParquetImages
from pliant.data.safe_pickle import read_pickle
from pliant.models.blueprint import Blueprint, BlueprintError, read_blueprint
from pliant.models.registry import create
from pliant.seal import seal
from pliant.training.checkpoint import CheckpointError
from pliant.training.experiment import resume, train
from pliant.training.folder import RunFolder, RunFolderError
from pliant.training.recipe import Recipe
from pliant.training.recipe_file import RecipeError, parse

SOURCE = Path(pliant.__file__).parent


@pytest.fixture
def frugal():
    """Fail a test that takes more than a gibibyte or half a minute."""
    before, began = resource.getrlimit(resource.RLIMIT_AS), time.monotonic()
    size = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (size + 2**30, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)
    assert time.monotonic() - began < 30


class Shell:
    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


# The source


def calls():
    for path in sorted(SOURCE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                yield path.relative_to(SOURCE).as_posix(), ast.unparse(node.func), node


def test_every_torch_load_takes_weights_only():
    found = [node for _, name, node in calls() if name == "torch.load"]
    assert found
    for node in found:
        assert [ast.unparse(k.value) for k in node.keywords if k.arg == "weights_only"] == ["True"], ast.unparse(node)


def test_nothing_else_in_the_source_turns_data_into_code():
    forbidden = {"eval", "exec", "compile", "__import__", "os.system", "os.popen", "yaml.load", "yaml.unsafe_load"}
    forbidden |= {"yaml.full_load", "pickle.load", "pickle.Unpickler", "numpy.load", "np.load", "torch.hub.load"}
    found = {(path, name) for path, name, _ in calls() if name in forbidden or name.startswith("subprocess.")}
    assert found == set()


def test_modules_are_imported_by_name_in_four_places_only():
    found = {path for path, name, _ in calls() if name in {"importlib.import_module", "import_module"}}
    assert found == {"__init__.py", "data/optional.py", "export/onnx.py", "own.py"}


# Checkpoints


def test_a_checkpoint_that_would_run_a_command_is_refused_before_it_runs(folder, tmp_path):
    run = folder("run")
    train(faulty(), run, stop=stop_after(1))
    buffer = io.BytesIO()
    torch.save({"model": Shell(tmp_path / "mark")}, buffer)
    run.checkpoint.write_bytes(seal(buffer))
    with pytest.raises(CheckpointError, match="cannot be read"):
        resume(run)
    assert not (tmp_path / "mark").exists()


# Recipes


@pytest.mark.parametrize(
    "text",
    ["!!python/object/apply:os.mkdir [mark]", "!!python/name:os.system", "!!python/object/new:os.system [ls]"],
)
def test_yaml_cannot_name_code(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RecipeError, match="could not determine a constructor"):
        parse(text, "a recipe")
    assert not (tmp_path / "mark").exists()


LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join(['*' + before] * 9)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)
MERGES = "a: &a {x: 1}\n" + "".join(
    f"{name}: &{name} {{<<: [{', '.join(['*' + before] * 9)}]}}\n"
    for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.usefixtures("frugal")
@pytest.mark.parametrize(
    "text",
    [LAUGHS, MERGES, "a: &a [*a]", "[" * 100_000, "a: " + "{b: " * 100, "- x\n" * 10_001, "x" * 2**21],
    ids=["laughs", "merges", "itself", "lists", "levels", "items", "length"],
)
def test_yaml_cannot_stand_for_more_than_a_recipe_can_be(text):
    with pytest.raises(RecipeError, match="is not valid YAML"):
        parse(text, "a recipe")


def test_yaml_anchors_and_merges_in_proportion_are_fine():
    text = "a: &a {x: 1, y: [1, 2]}\nb: {<<: *a, x: 3}\nc: *a\n"
    assert parse(text, "a recipe") == {
        "a": {"x": 1, "y": [1, 2]},
        "b": {"x": 3, "y": [1, 2]},
        "c": {"x": 1, "y": [1, 2]},
    }


@pytest.mark.parametrize("name", ["../up", "a/../../up", "/absolute", "a//b", "a\\b", ".hidden", "..", "", "C:x"])
def test_the_name_of_a_run_stays_in_the_folder_of_runs(name):
    with pytest.raises(RecipeError, match="must be a folder name"):
        faulty(f"name={name!r}")


def test_a_link_is_not_followed_to_remove_what_is_behind_it(folder, tmp_path):
    run, elsewhere = folder("link"), RunFolder(tmp_path / "elsewhere")
    train(faulty(), elsewhere, stop=stop_after(1))
    run.path.parent.mkdir(parents=True)
    run.path.symlink_to(elsewhere.path)
    with pytest.raises(RunFolderError, match="holds a run already"):
        train(faulty(), run, overwrite=True)
    assert elsewhere.checkpoint.exists()


def test_a_recipe_names_code_only_as_package_and_function(tmp_path, monkeypatch):
    (tmp_path / "mark.py").write_text("from pathlib import Path\nPath('ran').touch()\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("mark", "mark.function", "./mark.py:main", "/mark:main", "mark:a.b", ":x"):
        with pytest.raises(ValueError, match="must"):
            Recipe.from_yaml(write(tmp_path, name)) and create(name, num_classes=2, in_channels=1, image_size=8)
    assert not (tmp_path / "ran").exists()


def write(folder, model):
    path = folder / "r.yaml"
    path.write_text(f"name: x\nmodel: {{name: {model!r}}}\nmethod: {{type: sgd}}\n")
    return path


# Compressed models


def test_a_folder_cannot_name_code_that_the_caller_did_not_name(tmp_path):
    (tmp_path / "model.json").write_text(Blueprint("os:mkdir", 10, 1, 8, (1, 1, 8, 8), {"path": "x"}).to_json())
    with pytest.raises(BlueprintError, match="name it yourself"):
        read_blueprint(tmp_path)
    with pytest.raises(BlueprintError, match="name it yourself"):
        read_blueprint(tmp_path, trusted="os:rmdir")


@pytest.mark.usefixtures("frugal")
@pytest.mark.parametrize(
    "text", ["[" * 2**20, '{"a":' * 2**20, "1" * 10_000, '{"schema": 2, "layers": {"../../x": 1}}']
)
def test_a_cut_is_data_whatever_it_says(tmp_path, text):
    (tmp_path / "cut.json").write_text(text)
    with pytest.raises((CutError, StoreError)):
        read_cut(tmp_path)


@pytest.mark.usefixtures("frugal")
def test_a_safetensors_header_cannot_ask_for_more_than_the_file(tmp_path):
    cut, net = tmp_path / "small", torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
    pliant.save(pliant.compress(net, pliant.FilterPruning(), 0.5, example=torch.zeros(1, 4)), cut)
    for header in (b'{"0.weight":{"dtype":"F32","shape":[1099511627776],"data_offsets":[0,4398046511104]}}', b"{" * 99):
        (cut / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
        with pytest.raises(StoreError, match="must be weights written by save"):
            pliant.load(cut, lambda: net)
    (cut / "model.safetensors").write_bytes(struct.pack("<Q", 2**62))
    with pytest.raises(StoreError, match="must be weights written by save"):
        pliant.load(cut, lambda: net)


# Data


@pytest.fixture
def file(tmp_path):
    def write_file(content, name="batch"):
        path = tmp_path / name
        path.write_bytes(content)
        return path

    return write_file


PICKLES = {
    "nested tuples as a key, which overflow the stack when hashed": b"\x80\x02})" + b"\x85" * 10**6 + b"K\x01s.",
    "a million empty sets": b"\x80\x04(" + b"\x8f" * 3 * 10**6 + b"l.",
    "a memo slot far away": b"\x80\x02}r\xff\xff\xff\x7f.",
    "bytes that are not there": b"\x80\x04\x8e" + struct.pack("<Q", 2**62) + b".",
    "a long integer that is not there": b"\x80\x02\x8b" + struct.pack("<i", 2**31 - 1) + b".",
    "digits for hours": b"I" + b"9" * 10**6 + b"\n.",
}


@pytest.mark.usefixtures("frugal")
@pytest.mark.parametrize("content", PICKLES.values(), ids=PICKLES.keys())
def test_a_pickle_cannot_take_more_than_its_size(file, content):
    with pytest.raises(CorruptDataError):
        read_pickle(file(content))


@pytest.mark.usefixtures("frugal")
def test_a_pickle_cannot_copy_one_text_or_array_many_times(file):
    text = b"X" + struct.pack("<I", 2**20) + b"a" * 2**20
    encode = b"c_codecs\nencode\n" + text + b"X\x06\x00\x00\x00latin1\x86q\x01"
    texts = b"\x80\x02}K\x00(" + encode + b"R" + b"c_codecs\nencode\nh\x01R" * 3000 + b"ls."
    assert len(read_pickle(file(texts))[0]) == 3001


@pytest.mark.usefixtures("frugal")
def test_a_pickle_cannot_copy_one_array_many_times(file):
    """Arrays of protocol 2: a reconstructed one, then its state, whose bytes are taken from the memo each time."""
    minus_one = b"J\xff\xff\xff\xff"
    dtype = b"cnumpy\ndtype\nX\x02\x00\x00\x00u1K\x00K\x01\x87R"
    dtype += b"(K\x03X\x01\x00\x00\x00|NNN" + 2 * minus_one + b"K\x00tb"
    start = b"cnumpy._core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85X\x01\x00\x00\x00b\x87R"
    values = b"B" + struct.pack("<I", 2**22) + bytes(2**22)
    state = b"(K\x01J\x00\x00\x40\x00\x85" + dtype + b"\x89%st"
    first = start + state.replace(b"%s", values + b"q\x01") + b"q\x02b"
    again = start + b"h\x02b"
    read = read_pickle(
        file(b"\x80\x03}(K\x00" + first + b"".join(b"M" + struct.pack("<H", n + 1) + again for n in range(150)) + b"u.")
    )
    assert len(read) == 151
    assert all(array.nbytes == 2**22 for array in read.values())


@pytest.mark.usefixtures("frugal")
@pytest.mark.parametrize("shape", [(2**20, 2**10), (2**31, 1, 1), (70_000, 1000, 1)])
def test_an_idx_header_cannot_ask_for_more_than_the_file_can_hold(file, shape):
    header = struct.pack(f">BBBB{len(shape)}I", 0, 0, 8, len(shape), *shape)
    for name, content in (("a", header), ("a.gz", gzip.compress(header))):
        with pytest.raises(CorruptDataError, match="the header announces"):
            read_idx(file(content, name), dims=len(shape))


@pytest.mark.usefixtures("frugal")
def test_a_gzip_bomb_is_not_unpacked(file):
    packer = zlib.compressobj(9, wbits=31)
    header = struct.pack(">BBBBI", 0, 0, 8, 1, 2**27)
    content = packer.compress(header) + b"".join(packer.compress(bytes(2**20)) for _ in range(2**7)) + packer.flush()
    with pytest.raises(CorruptDataError, match="the header announces"):
        read_idx(file(content, "a.gz"), dims=1)


def test_a_parquet_bomb_is_not_unpacked(file):
    bomb = {"bytes": bytes(2**20), "path": "x"}
    buffer = io.BytesIO()
    table = pa.table({"img": [bomb] * 100, "label": [0] * 100})
    parquet.write_table(table, buffer, compression="zstd", use_dictionary=False)
    with pytest.raises(CorruptDataError, match="cannot come out of"):
        ParquetImages(label="label", size=32).read([file(buffer.getvalue())])


def test_parquet_columns_of_other_types_are_refused(file):
    buffer = io.BytesIO()
    parquet.write_table(pa.table({"img": ["text"], "label": [0]}), buffer)
    with pytest.raises(CorruptDataError, match="images must be structs with binary bytes"):
        ParquetImages(label="label", size=32).read([file(buffer.getvalue())])


def png_of(height, width):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    )


@pytest.mark.usefixtures("frugal")
@pytest.mark.parametrize("side", [10_000, 60_000])
def test_an_image_bomb_is_not_unpacked(file, side):
    with pytest.raises(CorruptDataError, match="not a readable image"):
        decode_resized(file(png_of(side, side)), size=8)


def test_a_picture_that_is_a_program_is_not_opened(file):
    buffer = io.BytesIO()
    Image.new("RGB", (32, 32)).save(buffer, "EPS")
    assert b"%!PS" in buffer.getvalue()[:10]
    with pytest.raises(CorruptDataError, match="cannot identify"):
        decode_exact(buffer.getvalue(), size=32, where="here")
    with pytest.raises(CorruptDataError, match="cannot identify"):
        decode_resized(file(buffer.getvalue()), size=32)


def test_unsafe_pickles_are_named_as_such(file, tmp_path):
    with pytest.raises(UnsafePickleError, match="refused, it asks for"):
        read_pickle(file(pickle.dumps(Shell(tmp_path / "mark"))))
    assert not (tmp_path / "mark").exists()
