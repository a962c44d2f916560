"""`torchrun -m pliant` trains, sweeps and resumes as one process does; one rank writes."""

import json
import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

RECIPE = """
name: tiny
data: {name: digits, batch_size: 255}
model: {name: lenet-5}
train: {epochs: 2, device: cpu}
method: {type: sfw, plan: filters, step: {type: shrinkage, total: 0.3}}
sweep: {compressors: [filters, low-rank], fractions: [0.0, 0.5, 0.7], calibrate: 128}
"""


def pliant(folder, world, *arguments):
    command = [sys.executable, "-m", "pliant"]
    if world > 1:
        command[1:1] = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(world)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    return subprocess.run(  # noqa: S603  (our own command)
        [*command, *arguments], check=False, capture_output=True, text=True, timeout=240, env=environment, cwd=folder
    )


def rows(path):
    seconds = {"seconds", "train_loss"}
    return [{k: v for k, v in json.loads(line).items() if k not in seconds} for line in path.read_text().splitlines()]


@pytest.mark.slow
def test_two_launched_processes_make_the_run_of_one(tmp_path):
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    for name, world in (("one", 1), ("two", 2)):
        for words in (("train", "recipe.yaml", "--runs", name), ("sweep", f"{name}/tiny")):
            result = pliant(tmp_path, world, *words)
            assert result.returncode == 0, result.stderr
    one, two = tmp_path / "one" / "tiny", tmp_path / "two" / "tiny"
    weights = load_file(two / "model.safetensors")
    for name, w in load_file(one / "model.safetensors").items():
        torch.testing.assert_close(weights[name], w, atol=1e-4, rtol=0.0)
    assert [row["epoch"] for row in rows(two / "metrics.jsonl")] == [1, 2]
    key = ("compressor", "fraction", "parameters", "macs")
    expected, found = ([tuple(row[k] for k in key) for row in rows(run / "sweep.jsonl")] for run in (one, two))
    assert found == expected
    again = pliant(tmp_path, 2, "train", "recipe.yaml", "--runs", "two")
    assert again.returncode != 0
    assert "holds a run already" in again.stdout + again.stderr
