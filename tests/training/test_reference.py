"""The page about recipes says what the program checks."""

import re
import sys

import pytest
import torch
from recipe_reference import PAGE, filled
from typer.testing import CliRunner

from pliant.cli.main import app
from pliant.report.rows import MetricsRow, SweepRow, read_rows
from pliant.training.build import build_model, load_data
from pliant.training.recipe import Recipe
from pliant.training.reference import recipe_reference

CPU = torch.device("cpu")


def test_the_page_of_recipes_is_up_to_date():
    assert PAGE.read_text() == filled(PAGE.read_text()), "run: python scripts/recipe_reference.py"


def test_its_links_lead_to_headings_that_are_there_once():
    text = recipe_reference()
    lines = re.findall(r"^### (.*)", text, re.MULTILINE)
    headings = [re.sub(r"[^\w -]", "", line.lower()).replace(" ", "-") for line in lines]
    assert len(set(headings)) == len(headings)
    assert set(re.findall(r"\(#([^)]*)\)", text)) <= set(headings)


@pytest.fixture
def page(tmp_path, monkeypatch):
    """A folder with what the page says to write there, as the place where commands run."""
    for language, name in (("yaml", "tiny.yaml"), ("python", "mine.py")):
        parts = re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(), re.DOTALL)
        (tmp_path / name).write_text("\n\n".join(parts))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    return tmp_path


def pliant(*args):
    result = CliRunner().invoke(app, list(args))
    assert result.exit_code == 0, result.output + repr(result.exception)


def test_its_first_example_learns_and_survives_the_cut(page):
    pliant("train", "tiny.yaml")
    pliant("sweep", "runs/tiny-0")
    whole, half = read_rows(page / "runs" / "tiny-0" / "sweep.jsonl", SweepRow)
    assert (whole.fraction, half.fraction) == (0.0, 0.5)
    assert whole.raw > 0.9
    assert half.recalibrated > 0.8


def test_its_data_and_model_of_ones_own_learn(page):
    pliant("train", "tiny.yaml", "-o", "name=mine", "-o", "data.name=mine:load", "-o", "model={name: 'mine:make'}")
    assert read_rows(page / "runs" / "mine" / "metrics.jsonl", MetricsRow)[-1].eval_accuracy > 0.95
    data = "data={name: 'mine:load', args: {noise: 2.0}}"
    recipe = Recipe.from_yaml(page / "tiny.yaml", [data, "model={name: 'mine:make', args: {width: 16}}"])
    assert next(build_model(recipe, load_data(recipe, CPU).dataset, CPU).parameters()).shape[0] == 16


def test_its_method_and_compressor_of_ones_own_learn_and_cut(page):
    pliant("train", "tiny.yaml", "-o", "name=adamw", "-o", "method={type: 'mine:AdamW', lr: 0.01}")
    pliant("sweep", "runs/adamw", "--compressor", "mine:by_variance")
    assert read_rows(page / "runs" / "adamw" / "metrics.jsonl", MetricsRow)[-1].eval_accuracy > 0.9
    whole, half = read_rows(page / "runs" / "adamw" / "sweep.jsonl", SweepRow)
    assert (whole.compressor, half.fraction) == ("mine:by_variance", 0.5)
    assert half.parameters < whole.parameters


def test_every_key_of_a_recipe_with_its_default_is_in_it():
    text = recipe_reference()
    assert "| `batch_size` | integer ≥ 1 | `128` |" in text
    assert "| `lr` | number ≥ 0 | `0.05` |" in text
    plain = Recipe.model_validate({"name": "r", "method": {"type": "sgd"}}).model_dump()
    keys = {key for section in ("data", "model", "train", "method", "sweep") for key in plain[section]} | plain.keys()
    assert {key for key in keys if f"| `{key}` |" not in text} == set()
