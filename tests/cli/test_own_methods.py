"""Methods and compressors of the user's own, by import path: through every command, and refused with what to do."""

import sys

import pytest
from typer.testing import CliRunner

from interruption import StopAfterTwoBatches
from pliant import spec
from pliant.cli import train as train_command
from pliant.cli.main import app
from pliant.compress import read_cut
from pliant.report.rows import MetricsRow, SweepRow, read_rows
from pliant.training.experiment import load_run
from pliant.training.folder import RunFolder
from pliant.training.methods import OptimizerSection
from pliant.training.recipe import Recipe

MODULE = """
from dataclasses import dataclass, replace
from typing import Annotated

import torch
from pydantic import Field

from pliant.compress import Compressor, CutError, FilterPruning, Score
from pliant.methods import Claim
from pliant.spec import register
from pliant.training.methods import Method, NonNegative, OptimizerSection, Scene, SGDOptions, scheduled


class AdamW(OptimizerSection):
    lr: NonNegative = 0.001
    betas: Annotated[list[float], Field(min_length=2, max_length=2)] = [0.9, 0.999]

    def claim(self) -> Claim:
        return Claim.ONE_RATIO

    def build(self, scene: Scene) -> Method:
        adamw = torch.optim.AdamW(scene.model.parameters(), lr=self.lr, betas=tuple(self.betas))
        return scheduled(scene.model, adamw, "linear", scene.steps)


class Nesterov(SGDOptions):
    def claim(self) -> Claim:
        return Claim.ANY_RATIO

    def build(self, scene: Scene) -> Method:
        options = {"lr": self.lr, "momentum": self.momentum, "nesterov": True}
        return scheduled(scene.model, torch.optim.SGD(scene.model.parameters(), **options), self.schedule, scene.steps)


class Unfinished(OptimizerSection):
    def claim(self) -> Claim:
        return Claim.ANY_RATIO


@register
@dataclass(frozen=True)
class LastChannels(Score):
    def of(self, channels):
        return torch.arange(len(channels.filters), dtype=torch.float32)


def last():
    return FilterPruning(LastChannels())


@register
@dataclass(frozen=True)
class Halver(Compressor):
    def select(self, model, fraction=None, *, budget=None, example):
        cut = FilterPruning().select(model, fraction, budget=budget, example=example)
        return replace(cut, compressor="Halver", options={})

    def truncate(self, model, cut):
        return FilterPruning().truncate(model, self._known(cut))

    def realise(self, model, cut):
        return FilterPruning().realise(model, self._known(cut))

    def _known(self, cut):
        if cut.compressor != "Halver":
            raise CutError(f"the cut was made by {cut.compressor}")
        return replace(cut, compressor="FilterPruning")


@dataclass(frozen=True)
class Unknown(Halver):
    pass


def needing(amount):
    return Halver()


def nothing():
    return None


number = 3
"""
RECIPE = """
name: own
data: {name: digits, batch_size: 256}
model: {name: cnn-4, args: {widths: [4, 4, 4, 4]}}
train: {epochs: 2, device: cpu}
method: {type: "methods_of_my_own:AdamW", lr: 0.01}
sweep: {compressors: [filters, "methods_of_my_own:Halver"], fractions: [0.5], calibrate: 0}
"""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PLIANT_DEBUG", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "methods_of_my_own", raising=False)
    (tmp_path / "methods_of_my_own.py").write_text(MODULE)
    (tmp_path / "own.yaml").write_text(RECIPE)
    return tmp_path


def pliant(*args, code=0):
    result = CliRunner().invoke(app, list(args))
    assert result.exit_code == code, result.output + repr(result.exception)
    return " ".join(result.output.split())


def test_every_command_takes_a_method_and_compressors_of_ones_own(folder, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(train_command, "stop_on_interrupt", StopAfterTwoBatches)
        pliant("train", "own.yaml", code=130)
    pliant("train", "runs/own", "--resume")
    assert read_rows(folder / "runs" / "own" / "metrics.jsonl", MetricsRow)[-1].epoch == 2
    said = pliant("sweep", "runs/own")
    assert "methods_of_my_own:Halver, " in said
    pliant("sweep", "runs/own", "-c", "methods_of_my_own:last", "--macs", "0.5")
    rows = {row.compressor: row for row in read_rows(folder / "runs" / "own" / "sweep.jsonl", SweepRow)}
    assert list(rows) == ["filters", "methods_of_my_own:Halver", "methods_of_my_own:last by MACs"]
    assert rows["filters"].raw == rows["methods_of_my_own:Halver"].raw
    assert "one ratio" in pliant("report", "runs/own", "-o", "out")


def test_what_a_compressor_of_ones_own_cut_is_loaded_once_it_is_imported(folder, monkeypatch):
    pliant("train", "own.yaml", "-o", "train.epochs=1")
    pliant("compress", "runs/own", "-c", "methods_of_my_own:last", "-o", "small")
    cut = read_cut(folder / "small")
    assert (cut.compressor, set(cut.kept.values())) == ("FilterPruning", {(2, 3)})
    monkeypatch.delitem(sys.modules, "methods_of_my_own")  # as in a process that has not imported it yet
    monkeypatch.delitem(spec._REGISTRY, "LastChannels")
    export = ("export", "small", "-f", "torch-export")
    assert "known once its module is imported (pliant export --compressor)" in pliant(*export, code=2)
    assert "Done" in pliant(*export, "--compressor", "methods_of_my_own:last")


def test_a_search_tries_settings_of_a_method_and_is_judged_by_a_compressor_of_ones_own(folder):
    pytest.importorskip("optuna")
    judge = "'methods_of_my_own:Halver': [0.5]"
    tune = f"{{space: {{method.lr: [0.02]}}, judge: {{{judge}}}, effort: {{trials: 2, calibrate: 0}}}}"
    (folder / "own.yaml").write_text(f"{RECIPE}tune: {tune}\n")
    assert "Best of own" in pliant("tune", "own.yaml", "-o", "train.epochs=1")


def test_recipes_hold_a_method_of_ones_own_as_one_of_the_package(folder):
    recipe = Recipe.from_yaml(folder / "own.yaml", ["method.betas=[0.8, 0.9]"])
    assert isinstance(recipe.method, OptimizerSection)
    path = "methods_of_my_own:AdamW"
    assert recipe.identity()["method"] == {"type": path, "lr": 0.01, "betas": [0.8, 0.9]}
    (folder / "again.yaml").write_text(recipe.to_yaml())
    assert Recipe.from_yaml(folder / "again.yaml") == recipe
    inner = "method={type: random-cut, compressors: ['methods_of_my_own:last'], inner: {type: 'methods_of_my_own:%s'}}"
    pliant("train", "own.yaml", "-o", inner % "Nesterov", "-o", "train.epochs=1")
    assert load_run(RunFolder(folder / "runs" / "own")).recipe.method.inner.momentum == 0.9


INNER = "method={type: random-cut, compressors: [filters], inner: {type: 'methods_of_my_own:Nesterov', %s}}"
SWEPT = "sweep.compressors=['%s']"


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("method={type: 'nowhere:M'}", ["method: nowhere:M: cannot import 'nowhere'", "PYTHONPATH"]),
        ("method={type: 'methods_of_my_own:Absent'}", ["'methods_of_my_own' has no class 'Absent'"]),
        ("method={type: 'methods_of_my_own:number'}", ["'methods_of_my_own' has no class 'number'"]),
        ("method={type: 'methods_of_my_own:Halver'}", ["must be a subclass of OptimizerSection"]),
        ("method={type: 'methods_of_my_own:Unfinished'}", ["OptimizerSection asks for build as well"]),
        ("method={type: 'my file:M'}", ["must have the form 'package.module:Class', found 'my file:M'"]),
        ("method={type: adamw}", ["method.type: must be one of sgd,", "bcd, or 'package.module:name', found 'adamw'"]),
        ("method.rate=0.1", ["method.rate: no such key", "allowed: type, lr, betas"]),
        ("method.lr=-1.0", ["method.lr: must be greater than or equal to 0, found -1.0"]),
        ("method.betas=[0.9, x]", ["method.betas.1: must be a valid number", "'x'"]),
        (INNER % "rate: 1", ["method.inner.rate: no such key", "allowed: type, lr, momentum"]),
        (INNER % "lr: fast", ["method.inner.lr: must be a valid number", "'fast'"]),
        (
            SWEPT % "nowhere:C",
            ["sweep.compressors.0.type: nowhere:C: cannot import 'nowhere'", "are filters, low-rank,"],
        ),
        (SWEPT % "methods_of_my_own:absent", ["'methods_of_my_own' has no function 'absent'"]),
        (SWEPT % "methods_of_my_own:needing", ["is called without arguments, but needs amount: give these defaults"]),
        (SWEPT % "methods_of_my_own:nothing", ["must make a pliant.Compressor, found NoneType"]),
        (SWEPT % "methods_of_my_own:Unknown", ["Unknown is not registered; decorate the class"]),
        (
            "sweep.compressors=[{type: 'methods_of_my_own:last', score: l2}]",
            ["sweep.compressors.0.score: no such key; allowed: type"],
        ),
        ("tune={judge: {filtres: [0.5]}}", ["must be one of filters, low-rank, both, unstructured, or 'package."]),
    ],
)
def test_what_does_not_work_is_one_message_that_says_what_to_do(override, parts):
    text = pliant("train", "own.yaml", "-o", override, code=2)
    assert text.startswith("Error:")
    assert all(part in text for part in parts), text
