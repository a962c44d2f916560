import json
import os
import shlex
import sys

import pytest
from safetensors.torch import load_file
from typer.testing import CliRunner

from interruption import StopAfterTwoBatches
from pliant.cli import train as train_command
from pliant.cli.main import app
from pliant.compress import Scheme, compressor_of, read_cut
from pliant.report.rows import MetricsRow, SweepRow, read_rows
from pliant.training.compressors import SPLITS
from pliant.training.experiment import load_run
from pliant.training.folder import RunFolder

RECIPE = """
name: tiny-{seed}
data: {name: digits, batch_size: 256}
model: {name: cnn-4, args: {widths: [4, 4, 4, 4]}}
train: {epochs: 1, device: cpu}
method: {type: sfw, plan: filters, step: {type: shrinkage, total: 1.0}}
sweep: {compressors: [filters, low-rank], fractions: [0.0, 0.5], calibrate: 128}
"""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PLIANT_DEBUG", raising=False)
    (tmp_path / "tiny.yaml").write_text(RECIPE)
    return tmp_path


def pliant(*args, code=0):
    result = CliRunner().invoke(app, list(args))
    assert result.exit_code == code, result.output + repr(result.exception)
    return result.output


def test_from_a_recipe_to_a_cut_model(folder):
    assert "Next: pliant sweep runs/tiny-0" in pliant("train", "tiny.yaml")
    text = pliant("sweep", "runs/tiny-0")
    assert "low-rank, 50.0% removed: raw" in text
    assert "Next: pliant compress runs/tiny-0 --compressor filters" in text
    files = {"recipe.yaml", "run.json", "plan.txt", "metrics.jsonl", "model.safetensors"}
    files |= {"sweep.jsonl", "table.txt", "table.md", "plot.png"}
    assert {path.name for path in (folder / "runs" / "tiny-0").iterdir()} == files
    text = pliant("compress", "runs/tiny-0", "--compressor", "low-rank", "--fraction", "0.5", "-o", "small")
    assert "Done" in text
    report = json.loads((folder / "small" / "report.json").read_text())
    rows = read_rows(folder / "runs" / "tiny-0" / "sweep.jsonl", SweepRow)
    swept = next(row for row in rows if (row.compressor, row.fraction) == ("low-rank", 0.5))
    assert report["accuracy"] == pytest.approx(swept.recalibrated)
    assert (report["after"]["parameters"], report["after"]["macs"]) == (swept.parameters, swept.macs)
    assert read_cut(folder / "small").compressor == "LowRank"
    assert load_file(folder / "small" / "model.safetensors")


def test_commands_that_are_suggested_can_be_pasted(folder):
    def suggestion(text):
        (line,) = [line for line in text.splitlines() if line.startswith("Next: ")]
        return shlex.split(line.removeprefix("Next: pliant "))

    swept = suggestion(pliant("train", "tiny.yaml", "--runs", "my [bold]runs"))
    assert swept == ["sweep", "my [bold]runs/tiny-0"]
    cut = suggestion(pliant(*swept))
    exported = suggestion(pliant(*cut[:-1], "cut in half"))
    pliant(*exported[:-1], "torch-export")
    assert (folder / "cut in half" / "model.pt2").exists()
    (folder / "my [bold]runs" / "tiny-0" / "sweep.jsonl").unlink()
    text = pliant("report", "my [bold]runs/tiny-0", "-o", "out", code=2)
    assert "run: pliant sweep 'my [bold]runs/tiny-0'" in text


def test_cut_layers_are_reconstructed_on_request(folder):
    pliant("train", "tiny.yaml")
    text = pliant("sweep", "runs/tiny-0", "-c", "low-rank", "--fractions", "0.5,0.7", "--reconstruct", "64")
    rows = read_rows(folder / "runs" / "tiny-0" / "sweep.jsonl", SweepRow)
    assert [row.reconstruct for row in rows] == [64, 64]
    assert f"reconstructed {rows[0].reconstructed:.2%}" in text
    assert "reconstructed" in (folder / "runs" / "tiny-0" / "table.md").read_text()
    pliant("compress", "runs/tiny-0", "-c", "low-rank", "--fraction", "0.5", "--reconstruct", "64", "-o", "small")
    report = json.loads((folder / "small" / "report.json").read_text())
    assert report["reconstructed"]
    assert report["reconstruct"] == 64
    pliant("sweep", "runs/tiny-0", "-c", "low-rank", "--fractions", "0.3")
    assert read_rows(folder / "runs" / "tiny-0" / "sweep.jsonl", SweepRow)[-1].reconstructed is None


def test_filters_are_scored_by_reconstruction_on_request(folder):
    pliant("train", "tiny.yaml")
    text = pliant("sweep", "runs/tiny-0", "-c", "filters:reconstruction", "--macs", "0.3,0.5", "--reconstruct", "64")
    rows = read_rows(folder / "runs" / "tiny-0" / "sweep.jsonl", SweepRow)[-2:]
    assert {row.compressor for row in rows} == {"filters (score reconstruction) by MACs"}
    assert f"reconstructed {rows[0].reconstructed:.2%}" in text
    assert "--compressor filters:reconstruction --fraction 0.5 --reconstruct 64 -o compressed" in " ".join(text.split())
    given = ("-c", "filters:reconstruction", "--macs", "50%", "-o", "measured")
    pliant("compress", "runs/tiny-0", *given, "--reconstruct", "64")
    cut = read_cut(folder / "measured")
    assert cut.options["score"]["type"] == "Given"
    assert cut.macs <= 0.5 * cut.dense_macs
    text = pliant("compress", "runs/tiny-0", *given, "--overwrite", code=2)
    assert "measured on images: set reconstruct to a number" in text


def test_the_closest_of_several_cuts_on_request(folder):
    pliant("train", "tiny.yaml")
    text = pliant("sweep", "runs/tiny-0", "-c", "both:closest", "--macs", "0.4", "--reconstruct", "64")
    (row,) = read_rows(folder / "runs" / "tiny-0" / "sweep.jsonl", SweepRow)[-1:]
    assert row.compressor == "both (score reconstruction, search closest) by MACs"
    assert "--compressor both:closest --macs 50% --reconstruct 64" in " ".join(text.split())
    given = ("compress", "runs/tiny-0", "-c", "both:closest", "-o", "small")
    pliant(*given, "--macs", "60%", "--reconstruct", "64")
    cut = read_cut(folder / "small")
    assert cut.options["split"] in SPLITS
    assert (cut.macs, cut.dense_macs) == (row.macs, row.dense_macs)
    pliant(*given, "--fraction", "0.5", "--reconstruct", "64", "--overwrite")
    text = pliant(*given, "--macs", "60%", "--overwrite", code=2)
    assert "measured on images: set reconstruct to a number" in text


def test_convolutions_along_one_axis_each_on_request(folder):
    pliant("train", "tiny.yaml")
    text = pliant("sweep", "runs/tiny-0", "-c", "low-rank:spatial", "--macs", "0.4", "--reconstruct", "64")
    (row,) = read_rows(folder / "runs" / "tiny-0" / "sweep.jsonl", SweepRow)[-1:]
    assert row.compressor == "low-rank (scheme spatial) by MACs"
    assert "--compressor low-rank:spatial --fraction 0.5 --reconstruct 64" in " ".join(text.split())
    for name in ("low-rank:spatial", "both:reconstruction:spatial", "both:spatial:closest"):
        given = ("-c", name, "--macs", "60%", "--reconstruct", "64")
        pliant("compress", "runs/tiny-0", *given, "-o", "small", "--overwrite")
        cut = read_cut(folder / "small")
        made_by = compressor_of(cut)
        assert getattr(made_by, "low_rank", made_by).scheme is Scheme.SPATIAL
        assert cut.macs <= 0.6 * cut.dense_macs
    text = pliant("compress", "runs/tiny-0", "-c", "filters:spatial", "-o", "small", "--overwrite", code=2)
    assert "a scheme, as in low-rank:spatial, is for low-rank and both" in " ".join(text.split())
    text = pliant("compress", "runs/tiny-0", "-c", "low-rank:l2", "-o", "small", "--overwrite", code=2)
    assert "low-rank takes channel or spatial; a score, as in filters:l2, is for filters and both" in " ".join(
        text.split()
    )
    text = pliant("compress", "runs/tiny-0", "-c", "both:l1:l2", "-o", "small", "--overwrite", code=2)
    assert "leave one out" in " ".join(text.split())
    pliant(
        "compress",
        "runs/tiny-0",
        "-c",
        "both:closest:reconstruction",
        "--fraction",
        "0",
        "--reconstruct",
        "9",
        "-o",
        "x",
    )
    given = ("-c", "low-rank:spatial", "--time", "1000000", "-o", "small", "--overwrite")
    pliant("compress", "runs/tiny-0", *given)


def test_a_name_alone_is_what_the_recipe_says_and_whole_names_are_themselves(folder):
    pliant("train", "tiny.yaml", "-o", "sweep.compressors=['low-rank:spatial', {type: low-rank, rule: energy}]")
    for name, scheme in {"low-rank:spatial": "SPATIAL", "low-rank": "CHANNEL", "low-rank:channel": "CHANNEL"}.items():
        pliant("compress", "runs/tiny-0", "-c", name, "-o", "small", "--overwrite")
        assert compressor_of(read_cut(folder / "small")).scheme is Scheme[scheme]
    pliant("train", "tiny.yaml", "-o", "sweep.compressors=['low-rank:spatial']", "-o", "seed=1")
    pliant("compress", "runs/tiny-1", "-c", "low-rank", "-o", "small", "--overwrite")
    assert compressor_of(read_cut(folder / "small")).scheme is Scheme.SPATIAL
    text = pliant("sweep", "runs/tiny-1", "-c", "low-rank", "--fractions", "0.5")
    assert "--compressor low-rank:channel --fraction 0.5" in " ".join(text.split())


def test_a_sweep_can_be_asked_for_more(folder):
    pliant("train", "tiny.yaml")
    text = pliant("sweep", "runs/tiny-0", "-c", "unstructured", "--fractions", "0:0.4:0.2", "--calibrate", "0")
    rows = read_rows(folder / "runs" / "tiny-0" / "sweep.jsonl", SweepRow)
    assert [(row.compressor, row.fraction) for row in rows] == [("unstructured", f) for f in (0.0, 0.2, 0.4)]
    assert all(row.recalibrated is None for row in rows)
    assert "recalibrated " not in text.split("\n")[0]
    pliant("sweep", "runs/tiny-0", "-c", "filters", "--fractions", "0.5")
    assert len(read_rows(folder / "runs" / "tiny-0" / "sweep.jsonl", SweepRow)) == 4
    pliant("sweep", "runs/tiny-0", "-c", "filters", "--macs", "0.4,0.7,0.9999")
    rows = read_rows(folder / "runs" / "tiny-0" / "sweep.jsonl", SweepRow)[4:]
    assert [(row.compressor, row.fraction) for row in rows] == [("filters by MACs", f) for f in (0.4, 0.7)]
    assert all(row.fraction <= 1 - row.macs / row.dense_macs < row.fraction + 0.2 for row in rows)


def test_compressors_of_the_recipe_keep_their_options(folder):
    pliant("train", "tiny.yaml", "-o", "sweep.compressors=[{type: filters, score: folded, scope: global}]")
    pliant("sweep", "runs/tiny-0")
    rows = read_rows(folder / "runs" / "tiny-0" / "sweep.jsonl", SweepRow)
    assert {row.compressor for row in rows} == {"filters (score folded, scope global)"}
    pliant("compress", "runs/tiny-0", "-c", "filters", "-o", "small")
    assert json.loads((folder / "small" / "report.json").read_text())["label"] == rows[0].compressor


def test_seeds_are_reported_as_one_method(folder):
    for seed in ("0", "1"):
        pliant("train", "tiny.yaml", "-o", f"seed={seed}")
        pliant("sweep", f"runs/tiny-{seed}", "--fractions", "0.5")
    pliant("train", "tiny.yaml", "-o", "method={type: sgd}", "-o", "name=sgd")
    assert "nothing is swept yet in runs/sgd" in pliant("report", "runs/tiny-0", "runs/sgd", "-o", "out", code=2)
    pliant("sweep", "runs/sgd", "--fractions", "0.5")
    text = pliant("report", "runs/tiny-0", "runs/tiny-1", "runs/sgd", "-o", "out")
    assert "0, 1" in text
    assert "±" in text
    assert "not swept by 'rank'" in pliant("report", "runs/sgd", "-c", "rank", "-o", "out", code=2)
    assert "filters, any ratio" in pliant("report", "runs/sgd", "-c", "filters", "-o", "other")
    assert (folder / "out" / "removed.png").stat().st_size > 1000


def test_an_interrupted_run_is_resumed_by_its_folder_or_its_recipe(folder, monkeypatch):
    original = train_command.stop_on_interrupt
    monkeypatch.setattr(train_command, "stop_on_interrupt", StopAfterTwoBatches)
    assert "pliant train runs/tiny-0 --resume" in pliant("train", "tiny.yaml", code=130)
    assert "is interrupted; finish it with: pliant train runs/tiny-0 --resume" in pliant("sweep", "runs/tiny-0", code=2)
    monkeypatch.setattr(train_command, "stop_on_interrupt", original)
    text = pliant("train", "tiny.yaml", "--resume", "-o", "train.epochs=9", code=2)
    assert "these differ: train.epochs: 1 -> 9. Go on with it as it is: pliant train runs/tiny-0 --resume" in text
    assert "going on in epoch 1, after 2 batches" in pliant("train", "runs/tiny-0", "--resume")
    pliant("train", "tiny.yaml", "--runs", "other")
    one, two = (load_file(folder / runs / "tiny-0" / "model.safetensors") for runs in ("runs", "other"))
    assert all(one[name].equal(two[name]) for name in one)
    assert "finished already" in pliant("train", "tiny.yaml", "--resume", code=2)


def test_a_run_that_diverged_says_why_and_what_to_do_wherever_it_is_used(folder):
    hot = ("-o", "method={type: sgd, lr: 1.0e+30}")
    assert "lower the learning rate" in pliant("train", "tiny.yaml", *hot, code=2)
    info = json.loads((folder / "runs" / "tiny-0" / "run.json").read_text())
    assert info["status"] == "diverged"
    assert info["reason"].startswith("the training loss of epoch 1 is")
    commands = [("sweep", "runs/tiny-0"), ("compress", "runs/tiny-0", "-o", "x"), ("report", "runs/tiny-0", "-o", "x")]
    for command in [*commands, ("train", "runs/tiny-0", "--resume")]:
        text = " ".join(pliant(*command, code=2).split())
        assert f"runs/tiny-0 diverged, and would again: {info['reason']}" in text
        assert "pliant train runs/tiny-0/recipe.yaml -o KEY=VALUE --overwrite" in text
    text = pliant("train", "tiny.yaml", code=2)
    assert "holds a run that diverged; --overwrite replaces it" in text
    assert "--resume" not in text
    pliant("train", "runs/tiny-0/recipe.yaml", "-o", "method.lr=0.01", "--overwrite")
    info = json.loads((folder / "runs" / "tiny-0" / "run.json").read_text())
    assert (info["status"], info["reason"]) == ("finished", None)


def test_a_finished_run_without_its_weights_is_to_be_trained_again(folder):
    pliant("train", "tiny.yaml")
    (folder / "runs" / "tiny-0" / "model.safetensors").unlink()
    text = pliant("sweep", "runs/tiny-0", code=2)
    assert "model.safetensors is missing; train it again: pliant train runs/tiny-0/recipe.yaml --overwrite" in text
    pliant("train", "runs/tiny-0/recipe.yaml", "--overwrite")


def test_an_existing_run_is_refused_with_what_to_do():
    pliant("train", "tiny.yaml")
    text = pliant("train", "tiny.yaml", code=2)
    assert all(word in text for word in ("--resume", "--overwrite", "-o name="))
    pliant("train", "tiny.yaml", "--overwrite")
    assert "give one of the two" in pliant("train", "tiny.yaml", "--overwrite", "--resume", code=2)


def test_a_compressed_model_is_not_overwritten_silently():
    pliant("train", "tiny.yaml")
    pliant("compress", "runs/tiny-0", "-o", "small")
    assert "--overwrite" in pliant("compress", "runs/tiny-0", "-o", "small", code=2)
    pliant("compress", "runs/tiny-0", "-o", "small", "--overwrite", "--calibrate", "0")


def test_what_compress_writes_is_all_that_export_needs(folder):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    pliant("train", "tiny.yaml")
    text = pliant("compress", "runs/tiny-0", "-o", "small", "--latency")
    assert "FilterPruning: 8 of 16 atoms (50.0%) removed" in text
    assert "latency before: " in text
    assert "Next: pliant export small --format onnx" in text
    files = {"model.safetensors", "cut.json", "model.json", "report.json", "report.png", "recipe.yaml"}
    assert {path.name for path in (folder / "small").iterdir()} == files
    assert (folder / "small" / "report.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((folder / "small" / "report.json").read_text())["after"]["latency"]["threads"] >= 1
    for name in ("run.json", "recipe.yaml"):
        (folder / "runs" / "tiny-0" / name).unlink()
    assert "small/model.onnx" in pliant("export", "small")
    assert "compared on batches of 2 and 3 and 1" in pliant("export", "small", "-f", "torch-export", "-o", "out/m.pt2")
    assert (folder / "small" / "model.onnx").stat().st_size > 1000
    assert (folder / "out" / "m.pt2").stat().st_size > 1000
    assert "--overwrite" in pliant("export", "small", code=2)
    pliant("export", "small", "-f", "torch-export", "-o", "out/m.pt2", "--overwrite", "--fixed-batch")


@pytest.mark.parametrize("compressor", ["filters", "low-rank"])
def test_a_budget_is_met(folder, compressor):
    pliant("train", "tiny.yaml")
    for option, key in (("--macs", "macs"), ("--params", "parameters")):
        pliant("compress", "runs/tiny-0", "-c", compressor, option, "60%", "-o", "small", "--overwrite")
        report = json.loads((folder / "small" / "report.json").read_text())
        assert 0.4 < report["after"][key] / report["before"][key] <= 0.6
    assert "give one of them" in pliant(
        "compress", "runs/tiny-0", "--macs", "50%", "--fraction", "0.5", "-o", "x", code=2
    )
    assert "50%, 0.5 or 1200000" in pliant("compress", "runs/tiny-0", "--macs", "half", "-o", "x", code=2)
    assert "macs must be" in pliant("compress", "runs/tiny-0", "--macs", "150%", "-o", "x", code=2)


def test_export_imports_only_what_the_user_names(folder, monkeypatch):
    (folder / "mine.py").write_text(
        "from pliant.models import create\n"
        "def build(num_classes=10, in_channels=1, image_size=8):\n"
        "    return create('cnn-4', num_classes=num_classes, in_channels=in_channels, image_size=image_size)\n"
    )
    monkeypatch.syspath_prepend(str(folder))
    pliant("train", "tiny.yaml", "-o", "model={name: 'mine:build'}")
    pliant("compress", "runs/tiny-0", "-o", "small")
    command = ["export", "small", "-f", "torch-export"]
    assert "--model package.module:function" in pliant(*command, code=2)
    assert "--model package.module:function" in pliant(*command, "--model", "os:getcwd", code=2)
    pliant(*command, "--model", "mine:build")
    both = ("--model", "mine:build", "--input", "1x1x8x8", "--overwrite")
    assert "leave --input out" in pliant(*command, *both, code=2)
    (folder / "small" / "model.json").unlink()
    assert "small has no model.json: give the shape" in pliant(*command, *both[:2], "--overwrite", code=2)
    assert "needs --model" in pliant(*command, "--input", "1x1x8x8", "--overwrite", code=2)
    assert "1x3x32x32" in pliant(*command, "--model", "mine:build", "--input", "1x?", "--overwrite", code=2)
    pliant(*command, *both)


def test_export_refuses_another_model_than_the_folder_names(folder, monkeypatch):
    (folder / "other.py").write_text("def build():\n    raise AssertionError('must not be called')\n")
    monkeypatch.syspath_prepend(str(folder))
    pliant("train", "tiny.yaml")
    pliant("compress", "runs/tiny-0", "-o", "small")
    command = ["export", "small", "-f", "torch-export", "--model"]
    text = " ".join(pliant(*command, "other:build", code=2).split())
    assert "small/model.json names the model cnn-4, found --model other:build: leave it out" in text
    pliant(*command, "cnn-4")


def test_export_tells_what_is_wrong_with_a_folder(folder):
    assert "cut.json" in pliant("export", "nowhere", code=2)
    assert "onnx, torch-export" in pliant("export", "nowhere", "--format", "tflite", code=2)
    pliant("train", "tiny.yaml")
    pliant("compress", "runs/tiny-0", "-o", "small")
    blueprint = json.loads((folder / "small" / "model.json").read_text())
    blueprint["args"]["widths"] = [8, 8, 8, 8]
    (folder / "small" / "model.json").write_text(json.dumps(blueprint))
    assert "as the cut says" in pliant("export", "small", code=2)


def test_a_picture_is_left_out_without_matplotlib(folder, monkeypatch):
    pliant("train", "tiny.yaml")
    monkeypatch.setitem(sys.modules, "pliant.report.cut_plot", None)
    assert "pip install 'pliant[plot]'" in pliant("compress", "runs/tiny-0", "-o", "small")
    assert not (folder / "small" / "report.png").exists()


def test_overrides_reach_the_run(folder):
    pliant("train", "tiny.yaml", "-o", "train.epochs=2", "-o", "name=two")
    assert len(read_rows(folder / "runs" / "two" / "metrics.jsonl", MetricsRow)) == 2
    assert load_run(RunFolder(folder / "runs" / "two")).recipe.train.epochs == 2


@pytest.mark.parametrize(
    ("args", "parts"),
    [
        (["train", "none.yaml"], ["cannot read the recipe", "none.yaml"]),
        (["train", "tiny.yaml", "-o", "trian.epochs=1"], ["trian: no such key", "did you mean train?"]),
        (["train", "tiny.yaml", "-o", "method.k=1.5"], ["method.k", "(0, 1]", "1.5"]),
        (["train", "tiny.yaml", "-o", "data.name=mnist"], ["data.name", "fashion-mnist", "'mnist'"]),
        (["train", "tiny.yaml", "-o", "model.args={width: 3}"], ["cnn-4", "widths"]),
        (["train", "tiny.yaml", "-o", "model.name=nowhere:build"], ["cannot import 'nowhere'"]),
        (["train", "tiny.yaml", "-o", "method.step.total=100.0"], ["lower total or train for more steps"]),
        (["train", "."], ["is a folder"]),
        (["train", "tiny.yaml", "--resume"], ["no run to resume"]),
        (["sweep", "nowhere"], ["nowhere holds no run"]),
        (["compress", "nowhere", "-o", "out"], ["nowhere holds no run"]),
        (["report", "nowhere", "-o", "out"], ["nowhere holds no run"]),
        (["demo", "--seeds", "x"], ["seeds must look like"]),
    ],
)
def test_a_users_error_is_one_message_and_exit_code_two(args, parts):
    text = pliant(*args, code=2)
    assert text.startswith("Error:")
    assert "Traceback" not in text
    assert all(part in text for part in parts), text


@pytest.mark.parametrize(
    "args", [["-c", "filtres"], ["--fractions", "0:1:x"], ["--fractions", "0,1"], ["--fractions", "0:1:-1"]]
)
def test_a_sweep_that_cannot_be_says_so(args):
    pliant("train", "tiny.yaml")
    assert pliant("sweep", "runs/tiny-0", *args, code=2).startswith("Error:")


def test_debug_keeps_the_traceback(monkeypatch):
    monkeypatch.setenv("PLIANT_DEBUG", "1")
    result = CliRunner().invoke(app, ["sweep", "nowhere"])
    assert isinstance(result.exception, ValueError)
    monkeypatch.delenv("PLIANT_DEBUG")
    monkeypatch.setattr(os, "environ", dict(os.environ))
    result = CliRunner().invoke(app, ["--debug", "sweep", "nowhere"])
    assert isinstance(result.exception, ValueError)


def test_list_names_everything_that_recipes_know():
    text = pliant("list")
    for name in (
        "digits",
        "fashion-mnist",
        "cnn-4",
        "vit",
        "k-support",
        "low-rank",
        "unstructured",
        "rules",
        "shrinkage",
    ):
        assert name in text


@pytest.mark.parametrize(
    "command", [[], ["train"], ["sweep"], ["compress"], ["export"], ["report"], ["demo"], ["list"]]
)
def test_help_says_what_a_command_does(command):
    assert "Usage: pliant" in pliant(*command, "--help")


def test_tensorboard_events_are_written(folder):
    pytest.importorskip("tensorboard")
    pliant("train", "tiny.yaml", "--tensorboard")
    assert list((folder / "runs" / "tiny-0" / "tensorboard").iterdir())


def test_the_version_is_told():
    assert pliant("--version").strip()


def test_data_root_says_where_the_data_is(tmp_path):
    recipe = tmp_path / "r.yaml"
    recipe.write_text("name: r\ndata: {name: cifar10}\nmethod: {type: sgd}\n")
    result = CliRunner().invoke(app, ["train", str(recipe), "--data-root", str(tmp_path), "--runs", str(tmp_path)])
    assert result.exit_code == 2
    assert str(tmp_path) in result.output.replace("\n", "")
