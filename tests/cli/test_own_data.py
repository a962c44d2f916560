"""Data sets of the user's own, by import path: through every command, and refused with what to do."""

import json
import sys

import pytest
import suite
from typer.testing import CliRunner

from interruption import StopAfterTwoBatches
from pliant.cli import train as train_command
from pliant.cli.main import app
from pliant.data import DatasetNotFoundError, load

MODULE = """
from pathlib import Path
import torch
from pliant.data import Dataset, Split

def split(count, seed):
    draw = torch.Generator().manual_seed(seed)
    images = torch.randint(256, (count, 2, 6, 6), generator=draw, dtype=torch.uint8)
    return Split(images, torch.arange(count) % 3)

def made(count=64, shift=0):
    return Dataset(
        name="own", train=split(count, shift), test=split(30, 1), classes=tuple("abc"), mean=(0.5, 0.5), std=(1.0, 1.0)
    )

def load(root=None, count=64):
    return made(count if root is None else int((Path(root) / "count").read_text()))

def needing(root):
    return load(root)

def pair():
    return split(8, 0), split(8, 1)

def broken():
    return 1 / 0

def lost():
    raise FileNotFoundError("no images here")

number = 3
"""
RECIPE = """
name: own
data: {name: "data_of_my_own:load", batch_size: 16, args: {count: 48}}
model: {name: cnn-4, args: {widths: [4, 4, 4, 4]}}
train: {epochs: 2, device: cpu}
method: {type: sgd}
sweep: {compressors: [filters], fractions: [0.5], calibrate: 16}
"""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PLIANT_DATA", raising=False)
    monkeypatch.delenv("PLIANT_DEBUG", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "data_of_my_own", raising=False)
    (tmp_path / "data_of_my_own.py").write_text(MODULE)
    (tmp_path / "own.yaml").write_text(RECIPE)
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "count").write_text("33")
    return tmp_path


def pliant(*args, code=0):
    result = CliRunner().invoke(app, list(args))
    assert result.exit_code == code, result.output + repr(result.exception)
    return " ".join(result.output.split())


def sizes(name, root=None, **args):
    return len(load(f"data_of_my_own:{name}", root, **args).train)


def test_every_command_takes_data_of_ones_own(folder, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(train_command, "stop_on_interrupt", StopAfterTwoBatches)
        pliant("train", "own.yaml", code=130)
    pliant("train", "runs/own", "--resume")
    assert "filters, " in pliant("sweep", "runs/own")
    pliant("compress", "runs/own", "-o", "small")
    blueprint = json.loads((folder / "small" / "model.json").read_text())
    assert [blueprint[key] for key in ("num_classes", "in_channels", "image_size")] == [3, 2, 6]
    pliant("report", "runs/own", "-o", "out")


def test_a_search_tries_settings_on_data_of_ones_own(folder):
    pytest.importorskip("optuna")
    space = "tune: {space: {method.lr: [0.1]}, judge: {filters: [0.5]}, effort: {trials: 1, calibrate: 0}}\n"
    (folder / "own.yaml").write_text(RECIPE + space)
    assert "Best of own" in pliant("tune", "own.yaml")


def test_a_suite_takes_it_and_leaves_out_what_it_does_not_find(folder, capsys):
    (folder / "suite.yaml").write_text("""
seeds: [0]
reports:
  own:
    title: own
    runs:
      - {name: there, recipe: own.yaml}
      - {name: lost, recipe: own.yaml, override: ["data={name: 'data_of_my_own:lost'}"]}
      - {name: nowhere, recipe: own.yaml, override: ["data.root=nowhere"]}
""")
    with pytest.raises(SystemExit) as end:
        suite.main(["suite.yaml"])
    said = capsys.readouterr().out
    assert end.value.code == 0
    assert "left out, all runs on data_of_my_own:lost: data_of_my_own:lost: raised FileNotFoundError" in said
    assert "left out, all runs on data_of_my_own:load: " in said
    assert "1 of 1 runs are done" in said


def test_the_root_is_what_the_command_line_says_or_the_environment_or_the_functions_own(monkeypatch):
    assert sizes("load") == 64
    assert sizes("load", "files") == 33
    monkeypatch.setenv("PLIANT_DATA", "files")
    assert sizes("load") == sizes("needing") == 33
    monkeypatch.setenv("PLIANT_DATA", "nowhere")
    assert sizes("made") == 64
    assert sizes("load", "files") == 33
    with pytest.raises(DatasetNotFoundError, match=r"load: raised FileNotFoundError.*root='nowhere'"):
        sizes("load")


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("data.name=nowhere:load", ["nowhere:load: cannot import 'nowhere'", "PYTHONPATH"]),
        ("data.name=data_of_my_own:absent", ["'data_of_my_own' has no function 'absent'"]),
        ("data.name=data_of_my_own:number", ["'data_of_my_own' has no function 'number'"]),
        ("data.name=my file:load", ["must have the form 'package.module:function'", "'my file:load'"]),
        ("data.name=mnist", ["data.name: must be one of cifar10", "or 'package.module:function'", "'mnist'"]),
        ("data={name: 'data_of_my_own:pair'}", ["must return a pliant.data.Dataset, found tuple", "Dataset(name=..."]),
        ("data={name: 'data_of_my_own:broken'}", ["raised ZeroDivisionError", "called with no argument"]),
        ("data={name: 'data_of_my_own:needing'}", ["--data-root FOLDER", "PLIANT_DATA"]),
        ("data={name: 'data_of_my_own:pair', root: files}", ["takes no arguments, found root"]),
        ("data.args={flavour: sweet}", ["data_of_my_own:load: takes count, root, found flavour"]),
        ("data.args={root: files}", ["data.args: must not hold root", "data.root"]),
        ("data={name: digits, args: {flavour: 1}}", ["digits: these options do not fit", "'flavour'"]),
    ],
)
def test_what_does_not_work_is_one_message_that_says_what_to_do(override, parts):
    text = pliant("train", "own.yaml", "-o", override, code=2)
    assert text.startswith("Error:")
    assert all(part in text for part in parts), text
