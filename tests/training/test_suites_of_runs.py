"""Suites: what is committed is valid, and one runs in small, interrupted and repeated."""

from pathlib import Path

import pytest
import suite
from training_recipes import TINY

ROOT = Path(__file__).resolve().parents[2]

SUITES = sorted((ROOT / "recipes" / "suites").glob("*.yaml"))


@pytest.fixture
def small(tmp_path):
    (tmp_path / "tiny.yaml").write_text(TINY)
    (tmp_path / "suite.yaml").write_text(f"""
seeds: [0, 1]
reports:
  small/digits:
    title: two methods
    override: [train.epochs=1, "sweep.macs=[0.5, 0.9999]"]  # the second cannot be
    runs:
      - {{name: sfw, recipe: {tmp_path}/tiny.yaml}}
      - {{name: sgd, recipe: {tmp_path}/tiny.yaml, override: ["method={{type: sgd}}"]}}
""")
    return tmp_path


def ended(small, *arguments):
    with pytest.raises(SystemExit) as end:
        suite.main([str(small / "suite.yaml"), "--runs", str(small / "runs"), "-o", str(small / "out"), *arguments])
    return end.value.code


@pytest.mark.parametrize("file", SUITES, ids=lambda file: file.stem)
def test_runs_of_a_committed_suite_are_valid_and_all_different(file, monkeypatch):
    monkeypatch.chdir(ROOT)
    tasks = list(suite.tasks_of(suite.read(file), Path("runs"), None))
    folders = [task.folder.path for task in tasks]
    assert len(set(folders)) == len(folders)
    assert all(task.recipe.run_name.startswith(task.report) for task in tasks)


def test_a_suite_that_was_out_of_time_goes_on_to_its_report(small, capsys):
    assert ended(small, "--minutes", "0") == 1
    assert "0 of 4 runs are done: run it again" in capsys.readouterr().out
    assert ended(small, "--seeds", "1") == 0
    assert "2 of 2 runs are done" in capsys.readouterr().out
    table = (small / "out" / "small" / "digits" / "table.md").read_text()
    assert "sfw" in table
    assert "sgd" in table
    done = sorted(path.stat().st_mtime_ns for path in (small / "runs").rglob("*-0/*"))
    assert ended(small) == 0
    assert "4 of 4 runs are done" in capsys.readouterr().out
    assert sorted(path.stat().st_mtime_ns for path in (small / "runs").rglob("*-0/*")) == done


def test_a_sweep_that_was_cut_short_goes_on_with_what_is_missing(small):
    assert ended(small, "--seeds", "1") == 0
    sweep = small / "runs" / "small" / "digits" / "sgd-0" / "sweep.jsonl"
    rows = sweep.read_text().splitlines()
    sweep.write_text(rows[0] + "\n")
    assert ended(small, "--seeds", "1") == 0
    assert sweep.read_text().splitlines() == rows


def test_runs_without_their_data_are_left_out_and_named_before_any_training(small, capsys, monkeypatch):
    monkeypatch.setenv("PLIANT_DATA", str(small / "nowhere"))
    file = small / "suite.yaml"
    other = "      - {name: far, recipe: TINY, override: [data.name=cifar100, data.root=FAR]}\n"
    file.write_text(file.read_text() + other.replace("TINY", f"{small}/tiny.yaml").replace("FAR", str(small / "far")))
    assert ended(small, "--minutes", "0") == 1
    said = capsys.readouterr().out
    assert "left out, all runs on cifar100" in said
    assert "0 of 4 runs are done" in said
