"""Every method from a recipe: it trains, resumes to the bit, counts its gradients and ends as the plain model."""

import tempfile
from itertools import count
from pathlib import Path

import pytest
import torch

from pliant.methods import Claim
from pliant.report.rows import MetricsRow, read_rows
from pliant.training.experiment import load_run, resume, train
from pliant.training.folder import RunFolder
from pliant.training.recipe import Recipe
from pliant.training.recipe_file import RecipeError

HEAD = """
name: method
data: {name: digits, batch_size: 256}
model: {name: cnn-4, args: {widths: [4, 4, 4, 4]}}
train: {epochs: 2, device: cpu}
sweep: {compressors: [filters], fractions: [0.0, 0.5], calibrate: 128}
method: """

POLYTOPE = (
    "{type: sfw, plan: rules, rules: [{local: weight, layers: convolution, treat: {type: ball, "
    "ball: k-sparse-polytope, k: 0.05, radius: {type: init-scaled, scale: 15.0}}}, {treat: {type: free}}], "
    "step: {type: gradient}}"
)
METHODS = {
    "{type: spectral-decay, spectral_decay: 0.3, first: false}": (Claim.ANY_RATIO, 1),
    "{type: cram, compressor: filters, fractions: [0.0, 0.5], lr: 0.1}": (Claim.ANY_RATIO, 2),
    "{type: cram, compressor: {type: low-rank, rule: energy}, normalised: true}": (Claim.ANY_RATIO, 2),
    "{type: cram, compressor: unstructured, fractions: [0.5], share: 1.0, lr: 0.2}": (Claim.ANY_RATIO, 2),
    "{type: random-cut, compressors: [filters], fractions: [0.0, 0.5], inner: {type: sgd, lr: 0.2}}": (
        Claim.ANY_RATIO,
        1,
    ),
    "{type: random-cut, compressors: [low-rank, unstructured], inner: {type: sfw, plan: low-rank}}": (
        Claim.ANY_RATIO,
        1,
    ),
    # The second epoch's loss is that of cut models: a gentle cut, so that what was learnt shows in it.
    "{type: random-cut, compressors: [low-rank], fractions: [0.0, 0.3], start: 0.5, inner: {type: penalised, "
    "nuclear: {weight: 0.001}, lr: 0.2}}": (Claim.ANY_RATIO, 1),
    "{type: random-cut, compressors: [filters], inner: {type: spectral-decay, spectral_decay: 0.1}}": (
        Claim.ANY_RATIO,
        1,
    ),
    "{type: dual-averaging, filters: {weight: 0.001}, stages: 2, lr: 1.0}": (Claim.ONE_RATIO, 1),
    "{type: dual-averaging, nuclear: {weight: 0.001}, weight_decay: 0.0, settle: 0.0, lr: 1.0}": (Claim.ONE_RATIO, 1),
    "{type: dual-averaging, filters: {weight: 0.001}, adaptive: {epsilon: 0.01}, lr: 0.1}": (Claim.ONE_RATIO, 1),
    "{type: lorita, depth: 3, weight_decay: 0.001}": (Claim.ANY_RATIO, 1),
    "{type: trained-rank, every: 3}": (Claim.ONE_RATIO, 1),
    "{type: tensor-train, sets: [{layers: classifier}, {set: {type: tensor-train, entries: 0.5}}]}": (
        Claim.ONE_RATIO,
        1,
    ),
    "{type: global-momentum, active: 0.2, momentum: 0.95}": (Claim.ONE_RATIO, 1),
    "{type: conditioned, fraction: 0.5}": (Claim.ONE_RATIO, 1),
    "{type: dynamic-rank, tolerance: 0.2}": (Claim.ONE_RATIO, 1),
    POLYTOPE: (Claim.ANY_RATIO, 1),
}


def recipe_of(method, *overrides):
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "recipe.yaml"
        file.write_text(HEAD + method)
        return Recipe.from_yaml(file, list(overrides))


def weights(folder):
    return load_run(folder).model.state_dict()


FAST = (
    "{type: spectral",
    "{type: cram, compressor: filters",
    "{type: lorita",
    "{type: random-cut, compressors: [filters]",
    "{type: dual-averaging, filters: {weight: 0.001}, st",
)
TRIED = [pytest.param(m, marks=() if m.startswith(FAST) else pytest.mark.slow) for m in METHODS]


@pytest.mark.parametrize("method", TRIED)
def test_it_trains_and_resumes_to_the_bit(method, tmp_path):
    recipe = recipe_of(method)
    claim, evaluations = METHODS[method]
    assert recipe.method.claim() is claim
    whole, parts = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "parts")
    assert train(recipe, whole)
    batches = count(1)
    assert not train(recipe, parts, stop=lambda: next(batches) == 8)
    assert resume(parts)
    found, expected = weights(parts), weights(whole)
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    rows = read_rows(whole.metrics, MetricsRow)
    assert [row.evaluations for row in rows] == [evaluations * steps for steps in (5, 10)]
    assert rows[-1].train_loss < rows[0].train_loss


def test_recipes_survive_their_own_yaml(tmp_path):
    for number, method in enumerate(METHODS):
        recipe = recipe_of(method)
        file = tmp_path / f"{number}.yaml"
        file.write_text(recipe.to_yaml())
        assert Recipe.from_yaml(file) == recipe


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ("{type: spectral-decay}", "spectral_decay"),
        ("{type: cram, compressor: filters, fractions: [1.0]}", "fractions"),
        ("{type: random-cut, compressors: [filters], inner: {type: cram}}", "must be one of sgd, sfw, penalised"),
        ("{type: dual-averaging}", "at least one of filters, inputs and nuclear"),
        ("{type: lorita, depth: 1}", "depth"),
        ("{type: trained-rank, energy: 0.0}", "energy"),
        ("{type: global-momentum, active: 0}", "active"),
        ("{type: conditioned, fraction: 0.5, condition: 0.5}", "condition"),
        ("{type: dynamic-rank, tolerance: 1.0}", "tolerance"),
    ],
)
def test_what_a_recipe_cannot_say_is_refused_by_field(method, message):
    with pytest.raises(RecipeError, match=message):
        recipe_of(method)
