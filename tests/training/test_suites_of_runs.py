"""Suites: what is committed is valid, and one runs in small, interrupted and repeated."""

import json
import shutil
from pathlib import Path

import pytest
import suite
from training_recipes import TINY

from pliant.report.rows import RowError

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
    tasks = list(suite.tasks_of(suite.read(file), Path("runs")))
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


def test_a_run_that_diverges_leaves_the_others_to_be_done(small, capsys):
    file = small / "suite.yaml"
    file.write_text(file.read_text().replace("{type: sgd}", "{type: sgd, lr: 1.0e+30}").replace("sfw,", "z,"))
    for _ in range(2):  # found out, and remembered
        assert ended(small, "--seeds", "1") == 1
        said = capsys.readouterr().out
        assert "sgd-0 diverged: the training loss" in said
        assert "1 of 2 runs are done" in said
    assert "z" in (small / "out" / "small" / "digits" / "table.md").read_text()


def test_a_sweep_that_was_cut_short_goes_on_with_what_is_missing(small):
    assert ended(small, "--seeds", "1") == 0
    sweep = small / "runs" / "small" / "digits" / "sgd-0" / "sweep.jsonl"
    rows = sweep.read_text().splitlines()
    sweep.write_text(rows[0] + "\n")
    shutil.rmtree(small / "out")
    assert ended(small, "--seeds", "1") == 0
    assert sweep.read_text().splitlines() == rows


def test_cuts_that_were_repaired_on_other_numbers_of_images_are_made_again(possible):
    def images():
        sweep = possible / "runs" / "small" / "digits" / "sgd-0" / "sweep.jsonl"
        return [json.loads(line)["calibrate"] for line in sweep.read_text().splitlines()]

    file = possible / "suite.yaml"
    text = file.read_text()
    asked = (32, 32, 10**6, 10**6, 0)  # all that there are, where that is fewer
    seen = []
    for count in asked:
        file.write_text(text.replace("train.epochs=1,", f"train.epochs=1, sweep.calibrate={count},"))
        assert ended(possible, "--seeds", "1") == 0
        seen.append(images())
    first, again, most, all_again, none = seen
    assert set(first) == {32}
    assert again == first
    assert len(most) == 2 * len(first)
    assert 32 < min(most[len(first) :]) < 10**6
    assert all_again == none == most


def test_runs_without_their_data_are_left_out_and_named_before_any_training(small, capsys, monkeypatch):
    monkeypatch.setenv("PLIANT_DATA", str(small / "nowhere"))
    file = small / "suite.yaml"
    other = "      - {name: far, recipe: TINY, override: [data.name=cifar100, data.root=FAR]}\n"
    file.write_text(file.read_text() + other.replace("TINY", f"{small}/tiny.yaml").replace("FAR", str(small / "far")))
    assert ended(small, "--minutes", "0") == 1
    said = capsys.readouterr().out
    assert "left out, all runs on cifar100" in said
    assert "0 of 4 runs are done" in said


@pytest.fixture
def possible(small):
    file = small / "suite.yaml"
    file.write_text(file.read_text().replace(", 0.9999", ""))
    return small


def test_a_suite_goes_on_from_what_another_machine_has_published(possible, capsys):
    small = possible
    assert ended(small, "--seeds", "1") == 0
    report = small / "out" / "small" / "digits"
    before = {
        file.name: file.read_text() for file in (report / "rows.jsonl", report / "runs.jsonl", report / "table.md")
    }
    shutil.rmtree(small / "runs")
    assert ended(small, "--minutes", "0") == 1
    assert "2 of 4 runs are done" in capsys.readouterr().out
    assert {name: (report / name).read_text() for name in before} == before
    assert ended(small) == 0
    assert sorted(path.name for path in (small / "runs" / "small" / "digits").iterdir()) == ["sfw-1", "sgd-1"]
    assert (report / "rows.jsonl").read_text().splitlines()[:1] == before["rows.jsonl"].splitlines()[:1]
    assert len((report / "runs.jsonl").read_text().splitlines()) == 4


def test_a_published_run_that_lacks_a_cut_is_trained_anew_and_its_rows_are_never_mixed(possible):
    small = possible
    assert ended(small, "--seeds", "1") == 0
    report = small / "out" / "small" / "digits"
    shutil.rmtree(small / "runs")
    file = small / "suite.yaml"
    file.write_text(file.read_text().replace("sweep.macs=[0.5", "sweep.macs=[0.4, 0.5"))
    old = (report / "rows.jsonl").read_text()
    assert ended(small, "--seeds", "1", "--minutes", "0") == 1
    assert (report / "rows.jsonl").read_text() == old
    assert ended(small, "--seeds", "1") == 0
    trained = [json.loads(path.read_text())["started"] for path in sorted((small / "runs").rglob("run.json"))]
    assert [json.loads(line)["started"] for line in (report / "runs.jsonl").read_text().splitlines()] == trained


def test_published_runs_of_other_settings_are_named_and_left_out(possible, capsys):
    small = possible
    assert ended(small, "--seeds", "1") == 0
    file = small / "suite.yaml"
    file.write_text(
        file.read_text()
        .replace("{{type: sgd}}", "{{type: sgd, lr: 0.01}}")
        .replace("{type: sgd}", "{type: sgd, lr: 0.01}")
    )
    shutil.rmtree(small / "runs")
    assert ended(small, "--seeds", "1", "--minutes", "0") == 1
    said = capsys.readouterr().out
    assert "other settings" in said
    assert "sgd-0" in said
    assert "1 of 2 runs are done" in said


def published(report):
    runs = [json.loads(line) for line in (report / "runs.jsonl").read_text().splitlines()]
    return sorted((run["method"], run["seed"]) for run in runs)


def test_published_runs_go_by_the_name_that_the_suite_has_for_them_now(possible):
    small, report = possible, possible / "out" / "small" / "digits"
    assert ended(small, "--seeds", "1") == 0
    file = small / "suite.yaml"
    file.write_text(file.read_text().replace("name: sgd,", "name: plain,"))
    shutil.rmtree(small / "runs")
    assert ended(small, "--seeds", "1", "--minutes", "0") == 0
    assert published(report) == [("plain", 0), ("sfw", 0)]
    rows = [json.loads(line)["method"] for line in (report / "rows.jsonl").read_text().splitlines()]
    assert set(rows) == {"plain", "sfw"}


def test_what_is_not_performed_stays_in_the_report(possible, monkeypatch):
    small, report = possible, possible / "out" / "small" / "digits"
    file = small / "suite.yaml"
    text = file.read_text()
    assert ended(small) == 0
    everything = published(report)
    assert len(everything) == 4
    shutil.rmtree(small / "runs")
    assert ended(small, "--seeds", "1") == 0
    assert published(report) == everything
    monkeypatch.setenv("PLIANT_DATA", str(small / "nowhere"))
    file.write_text(
        text + f"      - {{name: far, recipe: {small}/tiny.yaml, override: [data.name=cifar100, data.root={small}]}}\n"
    )
    assert ended(small, "--minutes", "0") == 0
    assert published(report) == everything


def test_a_run_of_other_settings_in_the_folder_of_runs_is_not_taken_for_the_task(possible, capsys):
    small = possible
    assert ended(small, "--seeds", "1") == 0
    file = small / "suite.yaml"
    file.write_text(file.read_text().replace("{type: sgd}", "{type: sgd, lr: 0.01}"))
    assert ended(small, "--seeds", "1", "--minutes", "0") == 1
    assert "1 of 2 runs are done" in capsys.readouterr().out
    assert published(small / "out" / "small" / "digits") == [("sfw", 0)]
    assert ended(small, "--seeds", "1") == 1
    said = capsys.readouterr().out
    assert "sgd-0 holds a run of other settings" in said
    assert "1 of 2 runs are done" in said


@pytest.mark.parametrize("damage", ["{", "{}", "[]", '{"method": "sgd", "seed": 0}'])
def test_a_damaged_archive_is_named_with_its_line(small, damage):
    assert ended(small, "--seeds", "1") == 0
    runs = small / "out" / "small" / "digits" / "runs.jsonl"
    runs.write_text(runs.read_text() + damage + "\n")
    with pytest.raises(RowError, match=r"runs\.jsonl, line 3"):
        suite.main([str(small / "suite.yaml"), "--runs", str(small / "runs"), "-o", str(small / "out")])
