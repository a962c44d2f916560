"""The examples run, train, and end with cuts that are worth having."""

import math
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
pytestmark = pytest.mark.filterwarnings("ignore")  # other people's libraries warn of each other


def rows_of(name, epochs):
    return runpy.run_path(str(EXAMPLES / f"{name}.py"))["main"](epochs)


def check_curve(rows):
    assert rows[0].removed_fraction == 0
    assert [row.macs for row in rows] == sorted((row.macs for row in rows), reverse=True)
    assert rows[-1].macs < 0.5 * rows[0].macs


@pytest.mark.parametrize("name", ["plain_loop", "with_accelerate", "with_lightning"])
def test_a_classifier_learns_and_is_cut(name):
    rows = rows_of(name, 3)
    check_curve(rows)
    assert rows[0].recalibrated > 0.8
    assert rows[1].recalibrated > 0.8


def test_a_language_model_learns_and_is_cut():
    rows = rows_of("with_trainer", 3)
    check_curve(rows)
    assert rows[0].raw < math.log(128) - 0.5  # well below guessing
    assert rows[1].raw < math.log(128) - 0.5


@pytest.mark.slow
def test_two_processes_that_accelerate_launches_train_one_model(tmp_path):
    command = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    result = subprocess.run(  # noqa: S603  (our own example)
        [*command, "--main_process_port", "0", str(EXAMPLES / "with_accelerate.py")],
        check=False,
        capture_output=True,
        text=True,
        timeout=280,
        cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"},
    )
    assert result.returncode == 0, result.stderr
    lines = re.findall(r"(\d+)% of the rank removed: ([\d.]+)%, ([\d,]+) MACs", result.stdout)
    assert len(lines) == 8  # four cuts of each process
    assert len(set(lines)) == 4  # and they have the same model
    assert float(lines[0][1]) > 80
