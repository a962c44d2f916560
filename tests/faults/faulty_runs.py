"""Short runs for tests that break something: five batches an epoch, two epochs, a checkpoint every two batches."""

import tempfile
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file

from pliant.report.rows import MetricsRow, read_rows
from pliant.training.recipe import Recipe

RECIPE = """
name: faulty
data: {name: digits, batch_size: 256}
model: {name: lenet-300-100}
train: {epochs: 2, device: cpu, threads: 1, checkpoint_every: 2}
method: {type: sgd, lr: 0.1}
"""


def faulty(*overrides):
    """Return the recipe, with overrides as on the command line."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "faulty.yaml"
        file.write_text(RECIPE)
        return Recipe.from_yaml(file, list(overrides))


def stop_after(steps):
    """Return a function that says True when it is asked for the given time."""
    left = [steps]

    def stop():
        left[0] -= 1
        return left[0] == 0

    return stop


def assert_same(one, other):
    """Assert that two runs ended with the same weights and rows."""
    a, b = load_file(one.weights), load_file(other.weights)
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)
    rows = [[replace(row, seconds=0.0) for row in read_rows(run.metrics, MetricsRow)] for run in (one, other)]
    assert rows[0] == rows[1]
