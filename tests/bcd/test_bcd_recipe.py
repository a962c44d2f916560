"""Block coordinate descent from a recipe: the section, the run folder, the resumed run, what can be done with it."""

import logging
import tempfile
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest
import torch
import yaml
from chains import NETS
from pydantic import TypeAdapter, ValidationError
from typer.testing import CliRunner

from pliant.bcd import BCDError, ChainError, Course, CrossEntropy, Geometric, HardMode, SingularSystemError
from pliant.cli.main import app
from pliant.distributed import World
from pliant.methods import Claim
from pliant.report.rows import MetricsRow, read_rows
from pliant.sets import EntryBudget, RankSet, SetError, SparseSet, TensorTrainSet
from pliant.training import trainer
from pliant.training.build import judge
from pliant.training.experiment import load_run, resume, train
from pliant.training.folder import RunFolder
from pliant.training.loop import DivergedError
from pliant.training.methods import BCDMethod
from pliant.training.recipe import Recipe
from pliant.training.recipe_file import RecipeError

FULL = """
type: bcd
sets:
  - {layers: "0.*", set: {type: tensor-train, entries: 0.5}}
  - {layers: "3", set: null}
  - {set: {type: sparse, k: 0.4}}
mode: hard
loss: cross-entropy
tau: 2.0
start: 0.5
growth: {tau: 1.5, every: 2}
synchronise_every: 2
"""
TINY = """
name: tiny
data: {name: digits, augment: false}
model: {name: lenet-300-100, args: {widths: [16, 12]}}
train: {epochs: 6, device: cpu, threads: 1}
method:
  type: bcd
  sets: [{layers: "fc*", set: {type: sparse, k: 0.3}}, {layers: classifier, set: null}]
  loss: cross-entropy
  tau: 1.0
  alpha: 0.2
  start: 0.3
  chunk: 500
sweep: {compressors: [unstructured], fractions: [0.0, 0.5], calibrate: 0}
"""
RECIPES = Path(__file__).resolve().parents[2] / "recipes" / "bcd"
ENDED = ["method.refit=0.01", "method.polish={epochs: 2, lr: 0.003}"]


def method(text):
    return TypeAdapter(BCDMethod).validate_python(yaml.safe_load(text))


def tiny(*overrides):
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "tiny.yaml"
        file.write_text(TINY)
        return Recipe.from_yaml(file, list(overrides))


def stop_after(sweeps):
    asked = count(1)
    return lambda: next(asked) == sweeps


def assert_same(one, other):
    a, b = (load_run(folder).model.state_dict() for folder in (one, other))
    assert all(torch.equal(a[name], b[name]) for name in a)
    rows = [[replace(row, seconds=0.0) for row in read_rows(run.metrics, MetricsRow)] for run in (one, other)]
    assert rows[0] == rows[1]


def test_a_section_says_everything_about_a_run():
    section, model = method(FULL), NETS["perceptron"].model()
    bcd = section.descent(model)
    start = model[3].weight.detach().clone()
    section.scale(model)
    assert torch.equal(model[3].weight.detach(), 0.5 * start)
    assert bcd.problem.sets == {0: TensorTrainSet(EntryBudget(0.5)), 1: SparseSet(0.4)}
    assert (bcd.problem.loss, bcd.problem.mode) == (CrossEntropy(), HardMode())
    assert section.course() == Course(Geometric(tau=1.5, every=2), synchronise_every=2)
    assert section.claim() is Claim.ONE_RATIO


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        [*ENDED, "method.sets=[{layers: 'fc*', set: {type: tensor-train, entries: 0.5}}]", "method.mode=hard"],
        ["method.synchronise_every=2", "method.hard_last=3", "method.growth={tau: 2.0, every: 2}"],
        ["method.tolerance=0.0001", "method.measure_every=2", "train.checkpoint_every=4"],
    ],
    ids=["plain", "refit and polish", "course", "measured now and then"],
)
@pytest.mark.parametrize("sweeps", [2, 5])
def test_a_resumed_run_ends_with_the_weights_and_rows_of_an_uninterrupted_one(overrides, sweeps, tmp_path):
    recipe = tiny(*overrides)
    whole, parts = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "parts")
    assert train(recipe, whole)
    assert not train(recipe, parts, stop=stop_after(sweeps))
    assert resume(parts)
    assert_same(whole, parts)


def test_a_run_that_is_killed_goes_on_from_its_last_checkpoint(tmp_path):
    recipe = tiny("train.checkpoint_every=3")
    whole, parts = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "parts")
    stop = stop_after(5)

    def die():
        if stop():
            raise MemoryError
        return False

    assert train(recipe, whole)
    with pytest.raises(MemoryError):
        train(recipe, parts, stop=die)
    assert torch.load(parts.checkpoint, weights_only=True)["position"]["epoch"] == 3
    assert resume(parts)
    assert_same(whole, parts)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = RunFolder(tmp_path_factory.mktemp("bcd") / "runs" / "tiny")
    train(tiny(*ENDED, "method.measure_every=4"), folder)
    return folder


def test_rows_are_about_the_compressed_model_that_is_saved(finished):
    rows, run = read_rows(finished.metrics, MetricsRow), load_run(finished)
    assert [row.epoch for row in rows if row.objective is not None] == [4, 6]
    assert rows[-1].eval_accuracy == judge(run.recipe, run.data, run.model)
    assert (rows[-1].gap, rows[-1].dense_accuracy) == (0.0, rows[-1].eval_accuracy)  # the polish sets W to G
    assert rows[3].gap > 0.0
    assert [row.evaluations for row in rows] == [0] * 5 + [2 * 11]  # 1300 images in batches of 128
    assert all(row.lr is None and row.residual is None for row in rows)
    share = float((run.model.fc1.weight != 0.0).float().mean())
    assert share == pytest.approx(0.3, abs=0.001)
    assert rows[-1].eval_accuracy > 0.5  # chance is 0.1
    assert "fc2: SparseSet(k=0.3)\nclassifier: dense" in finished.plan.read_text()


def test_the_commands_know_the_run(finished):
    shell = CliRunner()
    swept = shell.invoke(app, ["sweep", str(finished.path)])
    assert swept.exit_code == 0, swept.output
    out = finished.path.parent / "small"
    command = ["compress", str(finished.path), "--compressor", "low-rank", "--fraction", "0.5", "-o", str(out)]
    done = shell.invoke(app, command)
    assert done.exit_code == 0, done.output
    assert "bcd" in shell.invoke(app, ["list"]).output


def test_progress_shows_what_a_sweep_has_measured(tmp_path):
    file = tmp_path / "tiny.yaml"
    file.write_text(TINY)
    command = [
        "train",
        str(file),
        "--runs",
        str(tmp_path / "runs"),
        "-o",
        "train.epochs=2",
        "-o",
        "method.tolerance=0.001",
    ]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    assert all(word in done.output for word in ("epoch 2/2", "  F ", "  gap ", "  residual "))


def test_a_run_ends_where_the_residual_is_small_enough(tmp_path):
    folder = RunFolder(tmp_path / "run")
    assert train(tiny(*ENDED, "method.tolerance=0.9", "train.epochs=50"), folder)
    rows = read_rows(folder.metrics, MetricsRow)
    assert len(rows) < 50
    assert rows[-1].residual <= 0.9 * rows[0].residual < rows[-2].residual
    assert rows[-1].evaluations > 0


@pytest.mark.parametrize(
    ("override", "error", "named"),
    [
        ("method.start=1.0e+30", SingularSystemError, "classifier"),
        ("method={type: bcd, sets: [], polish: {lr: 1.0e+30}}", DivergedError, "method.polish.lr"),
    ],
)
def test_a_run_that_diverges_says_so_and_keeps_its_last_checkpoint(override, error, named, tmp_path):
    folder = RunFolder(tmp_path / "run")
    with pytest.raises(error, match=named):
        train(tiny(override, "train.epochs=2"), folder)
    assert folder.read_info().status == "diverged"
    assert not folder.weights.exists()


@pytest.mark.parametrize(
    ("entry", "named"),
    [
        ("{type: tensor-train}", "either rank or entries"),
        ("{type: tensor-train, rank: 2, entries: 3}", "either rank or entries"),
        ("{type: sparse, k: 0.0}", "k"),
        ("{type: rank, rank: 0}", "rank"),
        ("{type: n-of-m, n: 2}", "m"),
        ("{type: cubic}", "cubic"),
    ],
)
def test_a_set_that_makes_no_sense_is_refused(entry, named):
    with pytest.raises(ValidationError, match=named):
        method(f"{{type: bcd, sets: [{{set: {entry}}}]}}")


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("method.sweeps=5", "train.epochs"),
        ("data.augment=true", "data.augment: false"),
        ("train.precision=bfloat16", "train.precision: float32"),
        ("train.compile=true", "train.compile: false"),
        ("method={type: bcd, sets: [], tolerance: 0.1, measure_every: 0}", "measure_every"),
    ],
)
def test_what_does_not_go_with_sweeps_is_refused_by_field(override, named):
    with pytest.raises(RecipeError, match=named):
        tiny(override)


@pytest.mark.parametrize(
    ("override", "error", "named"),
    [
        ("model={name: lenet-5}", ChainError, "pool1"),
        ("method.sets=[{set: {type: rank, rank: 1}}, {layers: head, set: null}]", SetError, "'head'"),
        ("method={type: bcd, sets: [{set: {type: rank, rank: 1}}], refit: 0.1}", BCDError, "classifier: a refit"),
    ],
)
def test_what_does_not_fit_the_model_is_refused_before_there_is_a_folder(override, error, named, tmp_path):
    folder = RunFolder(tmp_path / "run")
    with pytest.raises(error, match=named):
        train(tiny(override), folder)
    assert not folder.path.exists()


def test_several_processes_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(World, "on_main", lambda _, work: work())  # there is no group to tell
    monkeypatch.setattr(trainer, "agree", lambda _: None)
    with pytest.raises(BCDError, match="single process"):
        train(tiny(), RunFolder(tmp_path / "run"), world=World(0, 2))


def test_recipes_survive_their_own_yaml(tmp_path):
    recipe = tiny(*ENDED, "method.growth={tau: 2.0}")
    (tmp_path / "r.yaml").write_text(recipe.to_yaml())
    assert Recipe.from_yaml(tmp_path / "r.yaml") == recipe
    section = method("{type: bcd, sets: [{set: {type: rank, rank: 1}}]}")
    assert section.sets[0].set.build() == RankSet(1)


@pytest.mark.parametrize("file", sorted(RECIPES.glob("*.yaml")), ids=lambda file: file.stem)
def test_the_published_recipes_can_be_read(file):
    assert isinstance(Recipe.from_yaml(file).method, BCDMethod)


def test_a_checkpoint_of_another_method_is_refused(tmp_path, caplog):
    folder = RunFolder(tmp_path / "run")
    train(tiny(), folder, stop=stop_after(2))
    folder.recipe.write_text(tiny("method={type: sgd}").to_yaml())
    with caplog.at_level(logging.WARNING), pytest.raises(ValueError, match="checkpoint of something else"):
        resume(folder)


@pytest.mark.parametrize("other", ["{type: sgd, lr: 0.1}", None])
def test_features_train_like_images(other, tmp_path):
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(6, 561, generator=generator)
    for part, rows in (("train", 60), ("test", 24)):
        labels = torch.arange(rows) % 6
        table = 0.3 * centres[labels] + 0.1 * torch.randn(rows, 561, generator=generator)
        (tmp_path / f"X_{part}.txt").write_text("\n".join(" ".join(map(str, row)) for row in table.tolist()))
        (tmp_path / f"y_{part}.txt").write_text("\n".join(str(label + 1) for label in labels.tolist()))
    recipe = Recipe.from_yaml(
        RECIPES / "uci-har.yaml",
        [
            f"data.root={tmp_path}",
            "data.batch_size=20",
            "model.args.widths=[64, 64, 32]",
            "train.epochs=10",
            *([] if other is None else [f"method={other}"]),
        ],
    )
    folder = RunFolder(tmp_path / "run")
    assert train(recipe, folder)
    assert read_rows(folder.metrics, MetricsRow)[-1].eval_accuracy > 0.5  # chance is 1/6
