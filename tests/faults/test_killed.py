"""Kill -9 at random moments: every run that is resumed ends with the weights and rows of one that was left alone."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("killed_runs.py")


def killed_runs(*options):
    found = subprocess.run(  # noqa: S603
        [sys.executable, SCRIPT, *options],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert found.returncode == 0, found.stdout + found.stderr
    return found.stdout


def test_runs_killed_at_random_moments_end_as_if_nothing_had_happened():
    assert killed_runs("--kills", "5").startswith("5 kills at random moments")


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_so_do_a_hundred():
    assert killed_runs("--kills", "100").startswith("100 kills at random moments")


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_so_do_runs_killed_before_any_operation_on_a_file():
    killed_runs("--operations")
