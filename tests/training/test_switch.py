"""Penalties and the decomposition in the middle of training, from recipes."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from training_recipes import tiny

from pliant.compress import Energy, LowRank, read_cut
from pliant.methods import Claim
from pliant.report.rows import MetricsRow, read_rows
from pliant.training.experiment import load_run, resume, train
from pliant.training.folder import RunFolder

BATCHES = 5  # an epoch of the tiny recipe
WIDE = "model.args={widths: [8, 8, 16, 16]}"
RELOAD = "method={type: proximal, nuclear: {weight: 0.5}, lr: 0.1, reload: {epoch: 1, energy: 0.8}}"
PENALISED = {
    "proximal": "method={type: proximal, filters: {weight: 0.01, alpha: 0.2}, nuclear: {weight: 0.05}, prox_every: 2}",
    "once an epoch": "method={type: proximal, filters: {weight: 0.01}, prox_every: epoch, order: rank-first}",
    "penalised": "method={type: penalised, filters: {weight: 0.001}, inputs: {weight: 0.001}, nuclear: {weight: 0.01}}",
}


@pytest.fixture
def folder(tmp_path):
    return lambda name: RunFolder(tmp_path / "runs" / name)


def stop_after(steps):
    left = [steps]

    def stop():
        left[0] -= 1
        return left[0] == 0

    return stop


def outcome(folder):
    rows = [replace(row, seconds=0.0) for row in read_rows(folder.metrics, MetricsRow)]
    return load_file(folder.weights), rows


def require_same(one, other):
    (a, rows), (b, others) = outcome(one), outcome(other)
    assert rows == others
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("override", PENALISED.values(), ids=PENALISED.keys())
def test_runs_with_penalties_resume_to_the_bit_and_log_the_regulariser(folder, override):
    recipe = tiny(override)
    whole, parts = folder("whole"), folder("parts")
    train(recipe, whole)
    train(recipe, parts, stop=stop_after(BATCHES + 2))
    resume(parts)
    require_same(whole, parts)
    rows = read_rows(whole.metrics, MetricsRow)
    assert [row.evaluations for row in rows] == [BATCHES, 2 * BATCHES]
    assert all(row.penalty > 0 for row in rows)
    assert recipe.method.claim() is Claim.ANY_RATIO


@pytest.mark.parametrize("steps", [BATCHES - 1, BATCHES, BATCHES + 1, 2 * BATCHES + 1])
def test_a_decomposition_in_the_middle_resumes_to_the_bit_from_before_and_after(folder, steps):
    recipe = tiny(WIDE, RELOAD, "train.epochs=3")
    whole, parts = folder("whole"), folder("parts")
    train(recipe, whole)
    assert not train(recipe, parts, stop=stop_after(steps))
    resume(parts)
    require_same(whole, parts)


def test_it_ends_as_the_plain_model_with_the_ranks_of_the_cut(folder):
    run = folder("run")
    train(tiny(WIDE, RELOAD), run)
    loaded = load_run(run)
    cut = read_cut(run.path)
    found = LowRank(rule=Energy(1.0)).select(loaded.model, example=loaded.data.example())
    split = {name for name in cut.reduced() if name not in cut.left_dense}
    assert split
    assert {name: found.kept[name] for name in split} == {name: cut.kept[name] for name in split}
    assert set(load_file(run.weights)) == set(loaded.model.state_dict())
    rows = read_rows(run.metrics, MetricsRow)
    assert rows[0].penalty > 0
    assert rows[1].penalty is None  # the work of the regulariser is done


def test_the_smaller_model_trains_on(folder):
    """Weights that were not decomposed keep their momentum, and all of them move."""
    recipe = tiny(WIDE, RELOAD)
    torch.manual_seed(0)
    run = folder("run")
    train(recipe, run)
    short = folder("short")
    train(recipe, short, stop=stop_after(BATCHES + 1))
    saved = torch.load(short.checkpoint, weights_only=True)
    factors = [name for name in saved["model"] if name.endswith((".0.weight", ".1.weight"))]
    assert factors
    assert all("momentum_buffer" in state for state in saved["optimizer"]["state"].values())


def test_it_is_counted_as_what_it_is_and_needs_epochs_on_both_sides():
    assert tiny(RELOAD, "train.epochs=2").method.claim() is Claim.RETRAINED
    with pytest.raises(ValueError, match=r"method\.reload\.epoch must be below train\.epochs=1, found 1"):
        tiny(RELOAD, "train.epochs=1")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("method={type: proximal}", "at least one of filters, inputs and nuclear must be given"),
        ("method={type: penalised, lr: 0.1}", "at least one of filters, inputs and nuclear must be given"),
        ("method={type: proximal, filters: {weight: 0.1}, reload: {epoch: 1}}", "reload decomposes the layers"),
        ("method={type: proximal, nuclear: {weight: 0.1}, prox_every: 0}", "greater than or equal to 1"),
    ],
)
def test_sections_that_make_no_sense_are_refused(override, message):
    with pytest.raises(ValueError, match=message):
        tiny(override)
