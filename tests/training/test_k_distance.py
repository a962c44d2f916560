"""The known regression of the method: the smaller k, the closer a k-support model is to its pruned version."""

from pathlib import Path

import pytest

from pliant.report.rows import MetricsRow, read_rows
from pliant.training.experiment import train
from pliant.training.folder import RunFolder
from pliant.training.recipe import Recipe

RECIPE = Path(__file__).resolve().parents[2] / "recipes" / "k-distance" / "k-support.yaml"


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_the_distance_to_the_pruned_model_falls_as_k_falls(tmp_path, seed):
    ends, accuracies = [], []
    for k in (0.1, 0.3, 1.0):
        folder = RunFolder(tmp_path / f"k{k}")
        train(Recipe.from_yaml(RECIPE, [f"method.k={k}", f"seed={seed}"]), folder)
        last = read_rows(folder.metrics, MetricsRow)[-1]
        ends.append(last.distance)
        accuracies.append(last.eval_accuracy)
    assert min(accuracies) > 0.9  # a shorter run leaves all of them at chance, where the order means nothing
    assert ends[0] < ends[1] < ends[2]
    assert ends[0] < 0.75 * ends[2]
