"""Launched by torchrun or accelerate, pliant trains and sweeps as one process does; one rank writes."""

import json
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from process_ranks import launched, message_of, on_ranks
from safetensors.torch import load_file

from pliant.distributed import World
from pliant.optim import RankMismatchError
from pliant.training.experiment import train
from pliant.training.folder import RunFolder
from pliant.training.recipe import Recipe

RECIPE = """
name: tiny
data: {name: digits, batch_size: 255}
model: {name: lenet-5}
train: {epochs: 2, device: cpu}
method: {type: sfw, plan: filters, step: {type: shrinkage, total: 0.3}}
sweep: {compressors: [filters, low-rank], fractions: [0.0, 0.5, 0.7], calibrate: 128}
"""


BCD = """
name: bcd
data: {name: digits, augment: false}
model: {name: lenet-300-100, args: {widths: [16, 16]}}
train: {epochs: 1, device: cpu}
method:
  type: bcd
  sets: [{layers: "fc*", set: {type: sparse, k: 0.1}}, {layers: classifier, set: null}]
  loss: cross-entropy
"""
METHODS = [
    "{type: sgd, lr: 0.5}",
    "{type: sfw, plan: low-rank, step: {type: shrinkage, total: 0.3}}",
    "{type: proximal, filters: {weight: 0.001}, nuclear: {weight: 0.001}, lr: 0.5}",
    "{type: penalised, filters: {weight: 0.001}, lr: 0.5}",
    "{type: spectral-decay, spectral_decay: 0.3, lr: 0.5}",
    "{type: cram, compressor: filters, fractions: [0.0, 0.5], lr: 0.5}",
    "{type: dual-averaging, filters: {weight: 0.001}, adaptive: {epsilon: 0.01}, lr: 0.1}",
    "{type: lorita, depth: 3, lr: 0.5}",
    "{type: trained-rank, every: 3, lr: 0.5}",
    "{type: global-momentum, active: 0.2, lr: 0.5}",
    "{type: conditioned, fraction: 0.5, lr: 0.5}",
    "{type: dynamic-rank, tolerance: 0.2, lr: 0.5}",
]
LAUNCHERS = {
    "one": [],
    "torchrun": ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"],
    # With --cpu it would start a single process; what is trained on is for the recipe to say.
    "accelerate": [
        *("-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"),
        *("--main_process_port", "0"),
    ],
}


def pliant(folder, launcher, *arguments):
    return launched(folder, [*LAUNCHERS[launcher], "-m", "pliant", *arguments])


def rows(path, timed=("seconds", "train_loss")):
    return [{k: v for k, v in json.loads(line).items() if k not in timed} for line in path.read_text().splitlines()]


def weights(run):
    return load_file(run / "model.safetensors")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_launched_processes_make_the_run_of_one_whoever_launches_them(tmp_path):
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    for launcher in LAUNCHERS:
        for words in (("train", "recipe.yaml", "--runs", launcher), ("sweep", f"{launcher}/tiny")):
            result = pliant(tmp_path, launcher, *words)
            assert result.returncode == 0, result.stderr
    one, two, other = (tmp_path / launcher / "tiny" for launcher in LAUNCHERS)
    torch.testing.assert_close(weights(two), weights(one), atol=1e-4, rtol=0.0)
    torch.testing.assert_close(weights(other), weights(two), atol=0.0, rtol=0.0)
    assert rows(other / "metrics.jsonl", ("seconds",)) == rows(two / "metrics.jsonl", ("seconds",))
    assert rows(other / "sweep.jsonl") == rows(two / "sweep.jsonl")
    # Sums over two halves of a batch are rounded in another way: there were two processes indeed.
    assert any(not torch.equal(w, weights(one)[name]) for name, w in weights(two).items())
    assert [row["epoch"] for row in rows(two / "metrics.jsonl")] == [1, 2]
    key = ("compressor", "fraction", "parameters", "macs")
    expected, found = ([tuple(row[k] for k in key) for row in rows(run / "sweep.jsonl")] for run in (one, two))
    assert found == expected
    again = pliant(tmp_path, "torchrun", "train", "recipe.yaml", "--runs", "torchrun")
    assert again.returncode != 0
    assert "holds a run already" in again.stdout + again.stderr


def write_recipes(folder):
    head, _, _ = RECIPE.replace("lenet-5", "'double_net:DoubleNet'").partition("method:")
    for number, method in enumerate(METHODS):
        (folder / f"{number}.yaml").write_text(f"{head}method: {method}\n")


def trained(folder, name):
    """Train every method from its recipe, and return the weights."""
    found = []
    for number in range(len(METHODS)):
        run = RunFolder(Path(folder) / name / str(number))
        assert train(Recipe.from_yaml(Path(folder) / f"{number}.yaml"), run, world=World.current())
        found.append(weights(run.path))
    return found


@pytest.mark.slow
def test_two_processes_train_every_method_as_one_does(tmp_path):
    write_recipes(tmp_path)
    one = trained(tmp_path, "one")
    for number, method in enumerate(METHODS):
        first, last = (row["train_loss"] for row in rows(tmp_path / "one" / str(number) / "metrics.jsonl", ()))
        assert last < first, method  # it learns: there is something to compare
    several = on_ranks(2, trained, str(tmp_path), "two", timeout=280)
    for method, expected, found in zip(METHODS, one, several[0], strict=True):
        torch.testing.assert_close(
            found, expected, atol=1e-6, rtol=0.0, msg=lambda text, method=method: f"{method}: {text}"
        )


def different(folder):
    """Let rank 1 read another learning rate than rank 0."""
    recipe = Recipe.from_yaml(Path(folder) / "0.yaml", [f"method.lr=0.{1 + dist.get_rank()}"])
    act = partial(train, recipe, RunFolder(Path(folder) / "run"), world=World.current())
    return message_of(RankMismatchError, act)


def test_another_recipe_on_one_rank_raises_on_all(tmp_path):
    write_recipes(tmp_path)
    for text in on_ranks(2, different, str(tmp_path)):
        assert "rank 1" in text
        assert "lr: 0.2" in text
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_block_coordinate_descent_refuses_company(tmp_path):
    (tmp_path / "recipe.yaml").write_text(BCD)
    result = pliant(tmp_path, "torchrun", "train", "recipe.yaml")
    assert result.returncode != 0
    assert "runs in a single process" in result.stdout + result.stderr
