"""A run of several processes that loses one goes on, with `resume`, as if nothing had happened."""

import os
import signal
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from process_ranks import on_ranks
from safetensors.torch import load_file

from pliant.distributed import World
from pliant.report.rows import MetricsRow, read_rows
from pliant.training.experiment import resume, train
from pliant.training.folder import RunFolder
from pliant.training.recipe import Recipe

RECIPE = """
name: lost
seed: 1
data: {name: digits, batch_size: 255}
model: {name: lenet-300-100, args: {widths: [16, 16]}}
train: {epochs: 3, device: cpu, checkpoint_every: 2}
method: {type: sfw, plan: low-rank, step: {type: shrinkage, total: 0.5}}
"""


def begun(recipe, folder, dies_after):
    """Train; the second process kills itself after so many batches."""
    batches = count(1)

    def stop():
        if next(batches) == dies_after and dist.get_rank() == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return False

    return train(Recipe.from_yaml(Path(recipe)), RunFolder(Path(folder)), world=World.current(), stop=stop)


def resumed(folder):
    return resume(RunFolder(Path(folder)), world=World.current())


def outcome(folder):
    rows = [replace(row, seconds=0.0) for row in read_rows(folder / "metrics.jsonl", MetricsRow)]
    return load_file(folder / "model.safetensors"), rows


@pytest.mark.slow
@pytest.mark.parametrize("dies_after", [1, 9])  # before the first checkpoint, and in the middle of the second epoch
def test_a_run_that_lost_a_process_ends_as_one_that_lost_none(dies_after, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(RECIPE)
    whole, lost = tmp_path / "whole", tmp_path / "lost"
    assert on_ranks(2, begun, str(recipe), str(whole), None) == [True, True]
    with pytest.raises((AssertionError, RuntimeError), match="rank"):
        on_ranks(2, begun, str(recipe), str(lost), dies_after, timeout=60)
    assert not (lost / "model.safetensors").exists()
    assert on_ranks(2, resumed, str(lost)) == [True, True]
    (weights, rows), (expected, all_rows) = outcome(lost), outcome(whole)
    assert all(torch.equal(w, expected[name]) for name, w in weights.items())
    assert rows == all_rows
