import os
import signal
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from training_recipes import tiny

from pliant.report.rows import MetricsRow, append_row, read_rows
from pliant.training.checkpoint import CheckpointError
from pliant.training.experiment import complete, load_run, resume, train
from pliant.training.folder import RunFolder, RunFolderError
from pliant.training.interrupt import stop_on_interrupt
from pliant.training.recipe import Recipe

BATCHES = 5  # an epoch of the tiny recipe


@pytest.fixture
def folder(tmp_path):
    return lambda name: RunFolder(tmp_path / "runs" / name)


def stop_after(steps):
    left = [steps]

    def stop():
        left[0] -= 1
        return left[0] == 0

    return stop


def same_weights(one, other):
    a, b = load_file(one.weights), load_file(other.weights)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def rows_of(folder):
    return [replace(row, seconds=0.0) for row in read_rows(folder.metrics, MetricsRow)]


METHODS = {
    "sgd": ["method={type: sgd, lr: 0.1, schedule: cosine}"],
    "filters, joined": ["method.norms={type: joined}"],
    "filters, coupled": ["method.coupled=true"],
    "low rank, gradient": ["method.plan=low-rank", "method.step={type: gradient}", "method.lr=0.1"],
    "dropout": ["method={type: sgd}", "model={name: 'training_models:dropout_net'}"],
}


@pytest.mark.parametrize("overrides", METHODS.values(), ids=METHODS.keys())
def test_a_resumed_run_ends_with_the_weights_and_rows_of_an_uninterrupted_one(folder, overrides):
    recipe = tiny(*overrides)
    whole, parts = folder("whole"), folder("parts")
    assert train(recipe, whole)
    assert not train(recipe, parts, stop=stop_after(2))
    assert not resume(parts, stop=stop_after(BATCHES))
    assert resume(parts)
    assert same_weights(whole, parts)
    assert rows_of(whole) == rows_of(parts)
    assert parts.read_info().resumed == 2


@pytest.mark.parametrize("steps", [BATCHES - 1, BATCHES, BATCHES + 1, 2 * BATCHES])
def test_it_may_be_interrupted_around_the_end_of_an_epoch(folder, steps):
    whole, parts = folder("whole"), folder("parts")
    train(tiny(), whole)
    train(tiny(), parts, stop=stop_after(steps))
    resume(parts)
    assert same_weights(whole, parts)
    assert rows_of(whole) == rows_of(parts)


def test_rows_after_the_checkpoint_are_neither_lost_nor_doubled(folder):
    run = folder("run")
    train(tiny(), run, stop=stop_after(BATCHES + 1))
    row = read_rows(run.metrics, MetricsRow)[0]
    append_row(run.metrics, replace(row, epoch=2))  # as if the run had died between the row and its checkpoint
    with run.metrics.open("a") as file:
        file.write('{"epoch": 3, "tra')
    resume(run)
    assert [row.epoch for row in read_rows(run.metrics, MetricsRow)] == [1, 2]


def test_a_run_that_died_before_its_first_checkpoint_starts_again(folder):
    whole, parts = folder("whole"), folder("parts")
    train(tiny(), whole)
    train(tiny(), parts, stop=stop_after(1))
    parts.checkpoint.unlink()
    resume(parts)
    assert same_weights(whole, parts)


def test_an_error_in_the_middle_leaves_a_run_that_can_be_resumed(folder):
    whole, parts = folder("whole"), folder("parts")

    def fail():
        if parts.checkpoint.exists():
            raise MemoryError
        return False

    train(tiny(), whole)
    with pytest.raises(MemoryError):
        train(tiny(), parts, stop=fail)
    assert parts.read_info().status == "interrupted"
    resume(parts)
    assert same_weights(whole, parts)


def test_the_checkpoint_is_plain_data_and_goes_when_the_run_is_finished(folder):
    run = folder("run")
    train(tiny(), run, stop=stop_after(3))
    content = torch.load(run.checkpoint, weights_only=True)
    assert {"model", "optimizer", "scheduler", "position", "random"} <= content.keys()
    assert content["position"]["batch"] == 3
    assert [path.name for path in run.path.iterdir() if path.name.endswith(".tmp")] == []
    resume(run)
    assert not run.checkpoint.exists()


def test_what_cannot_be_resumed_says_why(folder):
    run = folder("run")
    with pytest.raises(RunFolderError, match="no run to resume"):
        resume(run)
    train(tiny(), run, stop=stop_after(1))
    differing = r"differ: seed: 0 -> 1, train\.epochs: 2 -> 3\. Go on with it as it is: pliant train .*run --resume"
    with pytest.raises(RunFolderError, match=differing):
        resume(run, recipe=tiny("seed=1", "train.epochs=3"))
    with pytest.raises(RunFolderError, match="--resume"):
        load_run(run)
    resume(run, recipe=tiny())
    with pytest.raises(RunFolderError, match="finished already"):
        resume(run)


@pytest.mark.parametrize("content", [b"", b"nonsense", b"PK\x03\x04"])
def test_a_damaged_checkpoint_says_so(folder, content):
    run = folder("run")
    train(tiny(), run, stop=stop_after(1))
    run.checkpoint.write_bytes(content)
    with pytest.raises(CheckpointError, match="cannot be read"):
        resume(run)


def test_a_checkpoint_of_another_version_says_so(folder):
    run = folder("run")
    train(tiny(), run, stop=stop_after(1))
    torch.save({"schema": 99}, run.checkpoint)
    with pytest.raises(CheckpointError, match="schema"):
        resume(run)


def test_the_recipe_in_the_folder_is_the_recipe(folder):
    train(tiny("seed=3"), folder("run"), stop=stop_after(1))
    assert Recipe.from_yaml(folder("run").recipe) == tiny("seed=3")


def interrupt_twice():
    with stop_on_interrupt() as stop:
        assert not stop()
        os.kill(os.getpid(), signal.SIGINT)
        assert stop()
        os.kill(os.getpid(), signal.SIGINT)


def test_ctrl_c_is_a_request_and_the_second_one_an_order():
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        interrupt_twice()
    assert signal.getsignal(signal.SIGINT) is before


def test_ctrl_c_in_the_middle_of_a_run_saves_it(folder):
    whole, parts = folder("whole"), folder("parts")
    train(tiny(), whole)
    with stop_on_interrupt() as asked:
        steps = stop_after(3)

        def stop():
            if steps():
                os.kill(os.getpid(), signal.SIGINT)
            return asked()

        assert not train(tiny(), parts, stop=stop)
    resume(parts)
    assert same_weights(whole, parts)


def test_completing_a_run_trains_goes_on_or_does_nothing(folder):
    recipe = tiny()
    whole, parts = folder("whole"), folder("parts")
    assert complete(recipe, whole)
    assert not complete(recipe, parts, stop=stop_after(2))
    assert complete(recipe, parts)
    assert same_weights(whole, parts)
    before = parts.info.read_text()
    assert complete(tiny("sweep.fractions=[0.3]"), parts)  # what is swept says nothing about the training
    assert parts.info.read_text() == before


@pytest.mark.parametrize("stop", [0, 2], ids=["finished", "interrupted"])
def test_a_run_of_another_recipe_is_not_taken_for_a_complete_one(folder, stop):
    run = folder("run")
    train(tiny(), run, **({"stop": stop_after(stop)} if stop else {}))
    before = run.info.read_text()
    with pytest.raises(RunFolderError, match=r"another recipe; these differ: train\.epochs: 2 -> 3\. Choose"):
        complete(tiny("train.epochs=3"), run)
    assert run.info.read_text() == before
