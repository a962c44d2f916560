import pytest
from typer.testing import CliRunner

from pliant.cli import demo
from pliant.cli.main import app
from pliant.report.study import read_record, study
from pliant.training.recipe import Recipe


def small(original):
    """The demo's own recipes, for one epoch of a narrow model."""

    def recipes(seeds):
        changes = {"train": {"epochs": 1, "device": "cpu"}, "model": {"args": {"widths": [4, 4, 4, 4]}}}
        return [Recipe.model_validate({**recipe.model_dump(), **changes}) for recipe in original(seeds)]

    return recipes


def test_the_demo_trains_cuts_draws_and_says_what_is_next(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(demo, "_recipes", small(demo._recipes))
    result = CliRunner().invoke(app, ["demo"])
    assert result.exit_code == 0, result.output
    assert (tmp_path / "demo" / "demo.png").read_bytes().startswith(b"\x89PNG")
    assert all(
        name in (tmp_path / "demo" / "table.md").read_text() for name in ("sgd", "sfw-filters", "sfw-low-rank", "→")
    )
    assert "Next" in result.output
    assert CliRunner().invoke(app, ["demo"]).exit_code == 2


@pytest.mark.slow
def test_the_demo_keeps_its_promise(tmp_path):
    result = CliRunner().invoke(app, ["demo", "--seeds", "0,1,2", "-o", str(tmp_path)])
    assert result.exit_code == 0, result.output
    names = ("sgd", "sfw-filters", "sfw-low-rank")
    paths = [tmp_path / f"{name}-{seed}" for name in names for seed in (0, 1, 2)]
    entries = {entry.label: entry for entry in study([read_record(path) for path in paths])}
    curves = {(label, curve.compressor): curve for label, entry in entries.items() for curve in entry.curves()}
    assert all(entry.dense.mean >= 0.985 for entry in entries.values())
    assert curves["sfw-filters", "filters"].at(0.5).raw.mean >= 0.97
    assert curves["sfw-filters", "filters"].at(0.7).recalibrated.mean >= 0.95
    assert curves["sfw-low-rank", "low-rank"].at(0.5).raw.mean >= 0.97
    assert curves["sgd", "filters"].at(0.5).raw.mean <= 0.5


def test_the_three_methods_have_one_budget():
    recipes = demo._recipes([0, 1])
    assert [recipe.run_name for recipe in recipes[3:]] == ["sgd-1", "sfw-filters-1", "sfw-low-rank-1"]
    assert len({repr((recipe.data, recipe.model, recipe.train, recipe.sweep)) for recipe in recipes}) == 1
