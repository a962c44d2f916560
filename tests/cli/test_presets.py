import json

import pytest
from typer.testing import CliRunner

from pliant.cli.main import app
from pliant.compress import read_cut
from pliant.report.rows import SweepRow, read_rows
from pliant.training.presets import PRESETS
from pliant.training.recipe import Recipe
from pliant.training.recipe_file import RecipeError

TINY = ("-o", "model.args={widths: [4, 4, 4, 4]}", "-o", "train={epochs: 1, device: cpu}", "-o", "data.batch_size=64")

MADE_FOR = {
    "filters": ["filters (score reconstruction)"],
    "low-rank": ["low-rank (scheme spatial)"],
    "both": [
        "filters (score reconstruction)",
        "low-rank (scheme spatial)",
        "both (score reconstruction, scheme spatial, search closest)",
    ],
    "sfw-filters": ["filters"],
    "sfw-low-rank": ["low-rank"],
    "sfw-both": ["filters", "low-rank", "both", "unstructured"],
}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def pliant(*args, code=0):
    result = CliRunner().invoke(app, list(args), env={"COLUMNS": "200"})
    assert result.exit_code == code, result.output + repr(result.exception)
    return result.output


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_alone_trains_and_sweeps_what_it_was_made_for(preset, folder):
    pliant("train", "--preset", preset, *TINY, "-o", "seed=3")
    pliant("sweep", f"runs/{preset}-3", "--fractions", "0.5", "--calibrate", "128")
    rows = read_rows(folder / "runs" / f"{preset}-3" / "sweep.jsonl", SweepRow)
    assert [row.compressor for row in rows] == MADE_FOR[preset]


def test_the_preset_for_filters_has_them_measured_and_needs_images(folder):
    pliant("train", "--preset", "filters", *TINY)
    pliant("compress", "runs/filters-0", "-c", "filters", "--macs", "50%", "-o", "small")
    assert read_cut(folder / "small").options["score"]["type"] == "Given"
    text = pliant("compress", "runs/filters-0", "-c", "filters", "--reconstruct", "0", "-o", "none", code=2)
    assert "measured on images: reconstruct must be 1 or more, found 0" in text
    text = pliant("sweep", "runs/filters-0", "--reconstruct", "0", code=2)
    assert "measured on images: set reconstruct to a number" in text


def test_what_is_asked_for_by_its_whole_name_is_not_searched_and_a_search_needs_images(folder):
    pliant("train", "--preset", "both", *TINY)
    given = ("compress", "runs/both-0", "--macs", "60%", "--reconstruct", "64", "--overwrite", "-o", "small", "-c")
    pliant(*given, "both:reconstruction")
    assert read_cut(folder / "small").options["split"] == 0.5
    assert json.loads((folder / "small" / "report.json").read_text())["label"] == "both (score reconstruction)"
    pliant(*given, "both")
    label = json.loads((folder / "small" / "report.json").read_text())["label"]
    assert label == "both (score reconstruction, scheme spatial, search closest)"
    searched = ("-o", "name=plain", "-o", "sweep.compressors=[{type: both, search: closest}]")
    pliant("train", "--preset", "both", *TINY, *searched)
    text = pliant("compress", "runs/plain", "--macs", "60%", "-c", "both", "--reconstruct", "0", "-o", "none", code=2)
    assert "found on images: reconstruct must be 1 or more, found 0" in text


def test_a_recipe_says_the_data_and_the_model_and_a_preset_the_method(folder):
    (folder / "mine.yaml").write_text(
        "name: mine\ndata: {name: digits}\nmodel: {name: lenet-5}\nsweep: {fractions: [0.4]}\n"
    )
    recipe = Recipe.from_yaml(folder / "mine.yaml", ["method.k=0.2"], preset="sfw-filters")
    assert (recipe.run_name, recipe.model.name, recipe.sweep.fractions) == ("mine", "lenet-5", [0.4])
    assert (recipe.method.plan, recipe.method.k, recipe.method.step.total) == ("filters", 0.2, 4.5)
    assert Recipe.from_yaml(None, preset="sfw-filters").method == recipe.method.model_copy(update={"k": 0.3})


def test_a_name_can_say_which_preset_it_is(folder):
    (folder / "mine.yaml").write_text("name: mine/{preset}-{seed}\n")
    names = {Recipe.from_yaml(folder / "mine.yaml", preset=preset).run_name for preset in PRESETS}
    assert names == {f"mine/{preset}-0" for preset in PRESETS}
    with pytest.raises(RecipeError, match=r"name: has a place for a preset, give one: filters, .* \(--preset NAME\)"):
        Recipe.from_yaml(folder / "mine.yaml")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--preset", "filtres"), f"must be one of {', '.join(PRESETS)}, found 'filtres'"),
        (("own.yaml", "--preset", "filters"), "the recipe has a method of its own"),
        ((), f"give a recipe file, or --preset with one of {', '.join(PRESETS)}"),
        ((".", "--resume", "--preset", "filters"), "has its method: leave --preset out"),
        ((".",), "is a folder: give a recipe file"),
    ],
)
def test_mistakes_are_told(arguments, message, folder):
    (folder / "own.yaml").write_text("name: own\nmethod: {type: sgd}\n")
    assert message in " ".join(pliant("train", *arguments, code=2).split())


def test_a_recipe_without_a_method_still_needs_one_of_the_two(folder):
    (folder / "none.yaml").write_text("name: none\n")
    with pytest.raises(RecipeError, match="method: is missing"):
        Recipe.from_yaml(folder / "none.yaml")


def test_presets_are_listed():
    text = pliant("list")
    for name, line in PRESETS.items():
        assert f"{name}" in text
        assert line in text
