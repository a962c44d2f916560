import json

import pytest
import torch
from safetensors.torch import load_file
from training_recipes import tiny

from pliant.compress import UnstructuredPruning
from pliant.data import load
from pliant.metrics import accuracy, relative_distance
from pliant.report.rows import MetricsRow, SweepRow, read_rows
from pliant.training.build import load_data
from pliant.training.experiment import load_run, train
from pliant.training.folder import RunFolder, RunFolderError
from pliant.training.loop import DivergedError
from pliant.training.sweeping import sweep_run

CPU = torch.device("cpu")


@pytest.fixture
def folder(tmp_path):
    return lambda name: RunFolder(tmp_path / "runs" / name)


def test_a_run_folder_holds_all_there_is_to_know(folder):
    run = folder("run")
    assert train(tiny("train.threads=1"), run)
    info = json.loads(run.info.read_text())
    assert info["status"] == "finished"
    assert info["seed"] == 0
    assert info["ended"] >= info["started"]
    assert info["seconds"] > 0
    assert set(info["versions"]) == {"pliant", "torch", "python"}
    assert info["machine"]["cpu"]
    assert info["machine"]["threads"] == 1
    assert "features.conv1.weight" in run.plan.read_text()
    rows = read_rows(run.metrics, MetricsRow)
    assert [row.epoch for row in rows] == [1, 2]
    assert rows[-1].shrinkage == pytest.approx(1.0)
    assert 0 < rows[-1].kept < rows[0].kept < 1
    assert rows[0].lr > rows[1].lr == 0


def test_a_trained_run_loads_with_its_buffers_and_gives_its_last_row(folder):
    run = folder("run")
    train(tiny(), run)
    loaded = load_run(run)
    last = read_rows(run.metrics, MetricsRow)[-1]
    assert accuracy(loaded.model, loaded.data.eval_batches()) == last.eval_accuracy
    assert any("running_mean" in name for name in load_file(run.weights))


def test_tied_weights_are_saved_once_and_come_back_tied(folder):
    run = folder("run")
    train(tiny("model={name: 'training_models:TiedNet'}", "method={type: sgd}"), run)
    assert sum("weight" in name for name in load_file(run.weights)) == 2
    loaded = load_run(run)
    assert loaded.model.first.weight is loaded.model.second.weight
    last = read_rows(run.metrics, MetricsRow)[-1]
    assert accuracy(loaded.model, loaded.data.eval_batches()) == last.eval_accuracy


def test_the_seed_decides_everything(folder):
    runs = [folder(name) for name in "abc"]
    for run, seed in zip(runs, (0, 0, 1), strict=True):
        train(tiny(f"seed={seed}", "train.epochs=1"), run)
    a, b, c = (load_file(run.weights)["classifier.weight"] for run in runs)
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


def test_a_run_is_never_replaced_silently(folder):
    run = folder("run")
    recipe = tiny("train.epochs=1")
    train(recipe, run)
    with pytest.raises(RunFolderError, match="--resume continues it, --overwrite replaces it"):
        train(recipe, run)
    (run.path / "old").touch()
    train(recipe, run, overwrite=True)
    assert not (run.path / "old").exists()


def test_a_folder_that_is_no_run_is_not_even_overwritten(folder):
    foreign = folder("foreign")
    foreign.path.mkdir(parents=True)
    (foreign.path / "thesis.tex").touch()
    with pytest.raises(RunFolderError, match="no run folder"):
        train(tiny(), foreign, overwrite=True)
    assert (foreign.path / "thesis.tex").exists()


def test_a_run_that_cannot_be_built_leaves_no_folder(folder):
    with pytest.raises(ValueError, match="takes widths"):
        train(tiny("model.args={depth: 3}"), folder("run"))
    assert not folder("run").path.exists()


def test_repairs_see_images_as_training_does():
    """Statistics of images without the augmentation are not those that the weights were trained with."""
    plain, augmented = tiny("data.augment=false"), tiny("data.augment=true")
    data = load_data(plain, CPU)
    as_they_are = torch.cat(data.calibration(64, plain.data, 0))
    shifted = torch.cat(data.calibration(64, augmented.data, 0))
    images = data.samples()[0].flatten(1)
    assert all((image == images).all(1).any() for image in as_they_are.flatten(1))
    moved = [not (image == images).all(1).any() for image in shifted.flatten(1)]
    assert sum(moved) > 32  # shifts by a pixel or none in two directions: a ninth stays
    assert torch.equal(shifted, torch.cat(data.calibration(64, augmented.data, 0)))


def test_holding_out_takes_from_the_training_set_and_leaves_the_test_set_alone():
    whole, held = load_data(tiny(), CPU), load_data(tiny("data.holdout=0.2"), CPU)
    total = len(load("digits").train)
    assert len(whole.learn) == total
    assert len(held.judge) == round(0.2 * total)
    assert len(held.learn) + len(held.judge) == total
    assert held.judged_on == "held-out part of the training set"


@pytest.mark.parametrize("override", ["train.precision=bfloat16", "train.channels_last=true", "data.augment=false"])
def test_options_of_the_budget_train(folder, override):
    assert train(tiny(override, "train.epochs=1"), folder("run"))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # of the compiler about itself
def test_a_compiled_run_learns_what_an_eager_one_learns(folder):
    eager, compiled = folder("eager"), folder("compiled")
    plain = "method={type: sgd, lr: 0.01}"  # a choice of filters may turn on the last bit
    assert train(tiny(plain), eager)
    assert train(tiny(plain, "train.compile=true"), compiled)
    a, b = load_file(eager.weights), load_file(compiled.weights)
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(a[name], b[name], atol=1e-3, rtol=1e-3)


def test_an_unknown_device_says_so(folder):
    with pytest.raises(ValueError, match=r"train\.device must be auto, cpu or a device"):
        train(tiny("train.device=toaster"), folder("run"))


def test_a_diverged_run_stops_and_says_so(folder):
    run = folder("run")
    with pytest.raises(DivergedError, match="lower the learning rate"):
        train(tiny("method={type: sgd, lr: 1e30, schedule: constant}", "train.epochs=4"), run)
    assert run.read_info().status == "diverged"


@pytest.mark.parametrize(
    "method",
    [
        "{type: cram, lr: 1.0e+30, compressor: {type: filters}}",  # scores of filters
        "{type: cram, lr: 1.0e+30, compressor: {type: low-rank}}",  # eigenvectors
        pytest.param(
            "{type: random-cut, compressors: [{type: low-rank}], fractions: [0.5], inner: {type: sgd, lr: 1.0e+30}}",
            marks=pytest.mark.filterwarnings("ignore:no fraction is 0"),
        ),
        "{type: penalised, lr: 1.0e+30, nuclear: {weight: 0.1}}",  # singular vectors
        "{type: conditioned, lr: 1.0e+30, fraction: 0.5}",
    ],
)
def test_a_run_whose_weights_break_something_first_diverged_too(folder, method):
    run = folder("run")
    with pytest.raises(DivergedError, match=r"is not finite after \d epochs and \d batches; lower") as error:
        train(tiny(f"method={method}"), run)
    assert error.value.__cause__ is not None
    assert run.read_info().status == "diverged"
    assert run.read_info().reason == str(error.value)


def test_a_last_step_that_leaves_no_finite_weights_is_no_finished_run(folder):
    run = folder("run")
    hot = "method={type: sgd, lr: 1.0e+38, weight_decay: 1.0e+3, schedule: constant}"
    recipe = tiny(hot, "train.epochs=1", "data.batch_size=1797")  # one step
    with pytest.raises(DivergedError, match=r"weight is not finite after 1 epochs and 0 batches"):
        train(recipe, run)
    assert run.read_info().status == "diverged"
    assert not run.weights.exists()


@pytest.mark.parametrize(("method", "error"), [("{type: sgd}", ValueError), ("{type: sgd, lr: 1.0e+30}", MemoryError)])
def test_an_error_that_has_nothing_to_do_with_the_weights_is_not_taken_for_divergence(folder, method, error):
    run, asked = folder("run"), []

    def stop():
        asked.append(None)
        if len(asked) == 4:
            raise error("of the caller")
        return False

    with pytest.raises(error, match="of the caller"):
        train(tiny(f"method={method}"), run, stop=stop)
    assert run.read_info().status == "interrupted"


def test_a_sweep_writes_rows_as_they_come_and_leaves_the_model_alone(folder):
    run = folder("run")
    train(tiny("train.epochs=1"), run)
    before = run.weights.read_bytes()
    loaded = load_run(run)
    weights = {name: value.clone() for name, value in loaded.model.state_dict().items()}
    for count, row in enumerate(sweep_run(loaded, loaded.recipe.sweep), start=1):
        assert read_rows(run.sweep, SweepRow)[-1] == row
        assert len(read_rows(run.sweep, SweepRow)) == count
    first, second = read_rows(run.sweep, SweepRow)
    assert (first.fraction, second.fraction) == (0.0, 0.5)
    assert first.raw == read_rows(run.metrics, MetricsRow)[-1].eval_accuracy
    assert second.macs < first.macs == first.dense_macs
    assert second.calibrate == 128
    assert all(torch.equal(value, weights[name]) for name, value in loaded.model.state_dict().items())
    assert run.weights.read_bytes() == before


def test_a_probe_logs_the_distance_to_what_it_would_cut(folder):
    run = folder("probed")
    train(tiny("probe={compressor: unstructured, fraction: 0.9}"), run)
    distances = [row.distance for row in read_rows(run.metrics, MetricsRow)]
    compressor, model = UnstructuredPruning(), load_run(run).model
    pruned = compressor.truncate(model, compressor.select(model, 0.9, example=torch.zeros(1, 1, 8, 8)))
    assert distances[-1] == pytest.approx(relative_distance(model, pruned))
    assert 0 < distances[-1] < 1


def test_no_probe_no_distance(folder):
    run = folder("unprobed")
    train(tiny(), run)
    assert {row.distance for row in read_rows(run.metrics, MetricsRow)} == {None}
