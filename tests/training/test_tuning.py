"""Tuning: equal effort, every trial kept, resumed as if uninterrupted, and never a look at the test set."""

import json
import shlex
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import run_best
import yaml
from typer.testing import CliRunner

from pliant.cli.main import app
from pliant.exclusive import InUseError, exclusive
from pliant.report.rows import MetricsRow, SweepRow, TrialRow, append_row, read_rows, write_rows
from pliant.training.recipe import Recipe
from pliant.training.recipe_file import RecipeError
from pliant.training.tuning import tune as module
from pliant.training.tuning.search import next_setting
from pliant.training.tuning.task import tasks_of, written
from pliant.training.tuning.terms import OtherTermsError
from pliant.training.tuning.tune import tune

ROOT = Path(__file__).resolve().parents[2]
RECIPE = """
name: net
data: {name: digits, batch_size: 256}
model: {name: cnn-4, args: {widths: [4, 4, 4, 4]}}
train: {epochs: 1, device: cpu}
method: {type: proximal, nuclear: {weight: 1.0e-3}}
tune:
  judge: {low-rank: [0.0, 0.5], filters: [0.5]}
  space:
    method.lr: {low: 0.01, high: 0.5, log: true}
    method.nuclear: [{weight: 0.01}, {weight: 0.1}]
    method.prox_every: {low: 1, high: 4}
  effort: {trials: 7, calibrate: 64}
"""
CUT = SweepRow(
    compressor="low-rank",
    fraction=0.5,
    removed=0.5,
    raw=0.1,
    recalibrated=None,
    parameters=1,
    macs=1,
    dense_parameters=2,
    dense_macs=2,
)
EPOCH = MetricsRow(epoch=1, train_loss=1, train_accuracy=1, eval_accuracy=1, lr=0, seconds=1, evaluations=5)


@pytest.fixture
def recipe(tmp_path):
    file = tmp_path / "net.yaml"
    file.write_text(RECIPE)
    return file


@pytest.fixture
def pretend(monkeypatch):
    """Replace training and cutting by a made-up score, so that the search itself is tested."""
    seen = []

    def run(task, overrides, stop):  # noqa: ARG001  (the signature of what it replaces)
        found = task.load(overrides)
        seen.append(found)
        score = 0.9 - abs(found.method.lr - 0.1) - found.seed / 100
        return [replace(CUT, recalibrated=score)], replace(EPOCH, eval_accuracy=score)

    monkeypatch.setattr(module, "_run", run)
    return seen


def settings(rows):
    return [json.dumps(row.overrides, sort_keys=True) for row in rows]


def test_the_recipe_as_it_stands_comes_first_and_no_setting_twice(recipe, pretend, tmp_path):
    rows = list(tune(tasks_of(recipe), tmp_path / "out" / "trials.jsonl"))
    assert rows[0].overrides == {}
    assert [row.trial for row in rows] == list(range(7))
    assert len(set(settings(rows))) == 7
    for row in rows[1:]:
        assert set(row.overrides) == {"method.lr", "method.nuclear", "method.prox_every"}
        assert 0.01 <= row.overrides["method.lr"] <= 0.5
        assert row.overrides["method.nuclear"] in ({"weight": 0.01}, {"weight": 0.1})
        assert isinstance(row.overrides["method.prox_every"], int)
    assert [found.method.lr for found in pretend[1:]] == [row.overrides["method.lr"] for row in rows[1:]]
    assert read_rows(tmp_path / "out" / "trials.jsonl", TrialRow) == rows


def test_every_trial_holds_out_and_none_sees_the_test_set(recipe, pretend, tmp_path):
    list(tune(tasks_of(recipe), tmp_path / "trials.jsonl"))
    assert {found.data.holdout for found in pretend} == {1 / 6}
    assert {found.tune for found in pretend} == {None}


@pytest.mark.parametrize("done", [0, 1, 3, 6])
def test_an_interrupted_search_goes_on_as_it_would_have(recipe, pretend, tmp_path, done):  # noqa: ARG001  (see the fixture)
    whole = list(tune(tasks_of(recipe), tmp_path / "whole.jsonl"))
    parts = tmp_path / "parts.jsonl"
    for row in whole[:done]:
        append_row(parts, row)
    with parts.open("a") as file:
        file.write('{"method": "net", "tri')  # as if the machine had died while writing
    again = list(tune(tasks_of(recipe), parts))
    assert settings(again) == settings(whole[done:])
    assert settings(read_rows(parts, TrialRow)) == settings(whole)
    assert list(tune(tasks_of(recipe), parts)) == []


def test_the_sampler_learns_from_the_trials(recipe, pretend, tmp_path):  # noqa: ARG001  (see the fixture)
    (task,) = tasks_of(recipe, given=["tune.effort.trials=30"])
    rates = [row.overrides["method.lr"] for row in list(tune([task], tmp_path / "t.jsonl"))[1:]]
    distances = [abs(rate - 0.1) for rate in rates]
    assert sum(distances[20:]) < sum(distances[:9])
    (drawn,) = tasks_of(recipe, given=["tune.effort.trials=30", "tune.effort.sampler=random"])
    assert next_setting(drawn, []) == {}


def test_seeds_are_averaged(recipe, pretend, tmp_path):
    (row, *_) = tune(tasks_of(recipe, given=["tune.effort.seeds=[0, 1]"]), tmp_path / "t.jsonl")
    assert [found.seed for found in pretend[:2]] == [0, 1]
    assert row.score == pytest.approx(0.9 - 0.05 - 0.005)
    assert row.seeds == [0, 1]
    assert row.evaluations == 5


def test_a_setting_that_diverges_is_a_trial_and_scores_nothing(recipe, tmp_path, monkeypatch):
    def diverge(*_):
        raise ArithmeticError("the training loss is nan")

    monkeypatch.setattr(module, "_run", diverge)
    rows = list(tune(tasks_of(recipe), tmp_path / "t.jsonl"))
    assert len(rows) == 7
    assert {row.score for row in rows} == {None}
    assert rows[0].error == "the training loss is nan"


def test_a_search_goes_on_after_weights_that_break_the_method(recipe, tmp_path):
    hot = "method={type: penalised, lr: 1.0e+30, nuclear: {weight: 0.1}}"
    given = [hot, "train.epochs=2", "tune.space={method.lr: [0.01]}", "tune.effort.trials=2"]
    first, second = tune(tasks_of(recipe, given=given), tmp_path / "t.jsonl")
    assert first.score is None
    assert "not finite" in first.error
    assert second.score > 0


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ("train.epochs=2", r"train\.epochs: 1 -> 2"),
        ("method={type: sgd}", r'method\.type: "proximal" -> "sgd"'),
        ("tune.judge={filters: [0.5]}", r"tune\.judge\.low-rank: \[0\.0, 0\.5\] -> nothing"),
        ("tune.effort.holdout=0.25", r"data\.holdout: 0\.166\d* -> 0\.25"),
        ("tune.effort.seeds=[0, 1]", r"tune\.effort\.seeds: \[0\] -> \[0, 1\]"),
        ("tune.effort.calibrate=0", r"tune\.effort\.calibrate: 64 -> 0"),
    ],
)
def test_trials_of_another_recipe_or_judge_are_refused(recipe, pretend, tmp_path, given, named):
    file = tmp_path / "t.jsonl"
    list(tune(tasks_of(recipe), file))
    before, trained = file.read_text(), len(pretend)
    for trials in (7, 9):  # all of them done, some missing
        tasks = tasks_of(recipe, given=[f"tune.effort.trials={trials}", given])
        with pytest.raises(OtherTermsError, match=f"these differ: {named}.* give the trials another file"):
            list(tune(tasks, file))
    assert file.read_text() == before
    assert len(pretend) == trained


def test_two_searches_do_not_share_a_file(recipe, pretend, tmp_path):
    file = tmp_path / "t.jsonl"
    first = tune(tasks_of(recipe), file)
    row = next(first)
    with pytest.raises(InUseError, match=r"t\.jsonl is in use: another process"):
        next(tune(tasks_of(recipe), file))
    file.write_text(file.read_text().rstrip("\n"))  # to be mended, by the one that has it
    with pytest.raises(InUseError):
        next(tune(tasks_of(recipe), file))
    first.close()
    rows = [row, *tune(tasks_of(recipe), file)]
    assert read_rows(file, TrialRow) == rows
    assert len(pretend) == len(rows) == 7
    with exclusive(file):
        assert list(tune(tasks_of(recipe), file)) == []  # all done: nothing is written


def test_a_search_is_widened_and_moved_to_another_machine(recipe, pretend, tmp_path):  # noqa: ARG001  (see the fixture)
    list(tune(tasks_of(recipe), tmp_path / "t.jsonl"))
    changes = ["tune.effort.trials=9", "tune.effort.sampler=random", "tune.space={method.lr: {low: 0.001, high: 0.9}}"]
    tasks = tasks_of(recipe, given=[*changes, "data.root=elsewhere", "train.threads=1", "name=other"])
    assert [row.trial for row in tune(tasks, tmp_path / "t.jsonl")] == [7, 8]


def test_trials_of_older_versions_count(recipe, pretend, tmp_path):  # noqa: ARG001  (see the fixture)
    file = tmp_path / "t.jsonl"
    first, second, *_ = (json.loads(json.dumps(asdict(row))) for row in tune(tasks_of(recipe), file))
    del first["terms"]  # from before rows said them
    del second["terms"]["train"]["compile"]  # from before recipes had this key
    file.write_text("".join(json.dumps(row) + "\n" for row in (first, second)))
    assert [row.trial for row in tune(tasks_of(recipe), file)] == [2, 3, 4, 5, 6]


def study(tmp_path, **changes):
    other = yaml.safe_load(RECIPE) | {"method": {"type": "sgd"}, "name": "other"}
    del other["tune"]
    (tmp_path / "other.yaml").write_text(yaml.safe_dump(other))
    judge = {"filters": [0.5]}
    data = {
        "round": "two",
        "trials": 3,
        "methods": {"net": {}, "other": {"judge": judge, "space": {"method.lr": [0.1, 0.2, 0.4]}}},
    }
    file = tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump(data | changes))
    return file


def test_a_study_gives_every_method_the_same_effort(recipe, pretend, tmp_path):  # noqa: ARG001  (see the fixtures)
    tasks = tasks_of(study(tmp_path))
    rows = list(tune(tasks, tmp_path / "t.jsonl"))
    assert [(row.method, row.trial) for row in rows] == [(m, n) for m in ("net", "other") for n in range(3)]
    assert tasks[0].tuning.judge == {"low-rank": [0.0, 0.5], "filters": [0.5]}
    assert tasks[0].effort == tasks[1].effort
    earlier = replace(rows[0], round="one")
    append_row(tmp_path / "u.jsonl", earlier)
    assert len(list(tune(tasks, tmp_path / "u.jsonl"))) == 6  # rows of other rounds do not count


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"trials": 5, "methods": {"other": {"judge": {"filters": [0.5]}, "space": {"method.lr": [0.1]}}}},
            "2 at most",
        ),
        ({"methods": {"other": {"space": {"method.lr": [0.1]}}}}, "judge: is missing"),
        ({"methods": {"absent": {}}}, "absent.yaml"),
        (
            {"trials": 1, "methods": {"other": {"judge": {"filters": [0.5]}, "space": {"method.mu": [0.1]}}}},
            "method.mu: no such key",
        ),
        (
            {"methods": {"other": {"judge": {"filters": [0.5]}, "space": {"method.lr": {"low": 2.0, "high": 1.0}}}}},
            "low must be below high",
        ),
    ],
)
def test_studies_that_cannot_work_are_refused_before_the_first_trial(recipe, tmp_path, changes, message):  # noqa: ARG001
    with pytest.raises(RecipeError, match=message):
        list(tune(tasks_of(study(tmp_path, **changes)), tmp_path / "t.jsonl"))
    assert not (tmp_path / "t.jsonl").exists()


def test_methods_can_be_picked_and_unknown_ones_are_named(recipe, tmp_path):  # noqa: ARG001  (the study reads it)
    assert [task.method for task in tasks_of(study(tmp_path), ["other"])] == ["other"]
    with pytest.raises(RecipeError, match="has no method third; it has net, other"):
        tasks_of(study(tmp_path), ["third"])


def test_a_recipe_without_a_space_says_what_is_missing(tmp_path):
    file = tmp_path / "bare.yaml"
    file.write_text("name: a\nmethod: {type: sgd}\n")
    with pytest.raises(RecipeError, match="has no tune section"):
        tasks_of(file)


STUDIES = sorted((ROOT / "recipes").rglob("tuning*.yaml"))


@pytest.mark.parametrize("study", STUDIES, ids=lambda path: str(path.relative_to(ROOT / "recipes")))
def test_every_committed_study_can_be_run(study):
    tasks = tasks_of(study)
    assert tasks
    for task in tasks:
        task.check()


FINISHED = {
    "fashion-mnist/tuning": ["sgd", "filters", "low-rank", "unstructured"],
    "fashion-mnist/tuning-2": ["sgd", "filters", "low-rank", "unstructured"],
    "fashion-mnist/tuning-3": ["sgd", "low-rank"],
    "demo/tuning": ["demo-filters", "demo-low-rank", "demo-sgd"],
}


@pytest.mark.parametrize("study", FINISHED)
def test_the_trials_of_earlier_rounds_stay_readable_and_are_not_run_again(study, tmp_path):
    trials = (ROOT / "results" / study).with_name("trials.jsonl")
    (tmp_path / "t.jsonl").write_text(trials.read_text())
    tasks = tasks_of((ROOT / "recipes" / study).with_suffix(".yaml"), FINISHED[study])
    assert list(tune(tasks, tmp_path / "t.jsonl")) == []
    assert all(row.score is not None for row in read_rows(trials, TrialRow))


def test_the_command_tunes_and_says_how_to_train_the_best(recipe, tmp_path, monkeypatch):
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    overrides = ["tune.effort.trials=2", "data.batch_size=512", 'model.args={"widths": [4, 4, 4, 5]}']
    command = ["tune", str(recipe), "-o", "t.jsonl", "--data-root", "my data"]
    command += [word for text in overrides for word in ("--override", text)]
    result = CliRunner().invoke(app, command, env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    assert "net, trial 1: score" in result.output
    (line,) = [line for line in result.output.splitlines() if line.startswith("Best of net: pliant train ")]
    path, *options = shlex.split(line.removeprefix("Best of net: pliant train "))
    best = max(read_rows(tmp_path / "t.jsonl", TrialRow), key=lambda row: row.score)
    assert options[::2] == ["-o"] * (len(options) // 2)
    suggested = Recipe.from_yaml(path, options[1::2])
    (task,) = tasks_of(recipe, given=[*overrides, "data.root=my data"])
    judged = task.load(written(best.overrides))
    assert suggested.model_copy(update={"tune": None}) == judged.model_copy(
        update={"data": judged.data.model_copy(update={"holdout": 0.0})}
    )
    assert "any ratio" in result.output
    row = read_rows(tmp_path / "t.jsonl", TrialRow)[0]
    assert [cells[:2] for cells in row.rows] == [["low-rank", 0.0], ["low-rank", 0.5], ["filters", 0.5]]
    assert row.score == pytest.approx(sum(cells[3] for cells in row.rows) / 3)
    assert row.evaluations == 2


def test_a_search_without_a_score_suggests_no_training(recipe, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = [TrialRow(method="net", trial=n, overrides={}, score=None, dense=None, rows=[]) for n in range(7)]
    write_rows(tmp_path / "t.jsonl", rows)
    result = CliRunner().invoke(app, ["tune", str(recipe), "-o", "t.jsonl"], env={"COLUMNS": "200"})
    assert "Best of net: none, all trials diverged" in result.output


def test_the_best_setting_of_every_finished_search_is_trained(recipe, tmp_path, monkeypatch):  # noqa: ARG001  (the study reads it)
    ran = []
    monkeypatch.setattr(run_best.suite, "perform", lambda task: ran.append((task.recipe, task.folder.path)))
    common = {"dense": 1.0, "rows": [], "round": "two"}
    scores = {"net": [0.1, 0.9, None], "other": [0.1, 0.9]}
    rows = [
        TrialRow(method=method, trial=number, overrides={"method.lr": 0.1 + number / 10}, score=score, **common)
        for method, found in scores.items()
        for number, score in enumerate(found)
    ]
    rows.append(replace(rows[0], round="one", score=1.0))
    write_rows(tmp_path / "t.jsonl", rows)
    options = ["--seeds", "2", "--runs", str(tmp_path / "runs"), "-o", "name=net-{seed}", "-o", "train.epochs=5"]
    run_best.main([str(study(tmp_path)), str(tmp_path / "t.jsonl"), *options])
    assert [path for _, path in ran] == [tmp_path / "runs" / f"net-{seed}" for seed in range(2)]
    assert {(found.method.type, found.method.lr, found.train.epochs) for found, _ in ran} == {("proximal", 0.2, 5)}
