"""The study of block coordinate descent against gradients: its recipes, its table, and all of it in small."""

import json

import pytest
from bcd_study import RECIPES, STUDIES, Row, cell, main, parameters, table, write
from torch import nn

from pliant.sets import EntryBudget, SparseSet, TensorTrainSet
from pliant.training.recipe import Recipe


def row(**given):
    known = {"data": "d", "network": "n", "method": "bcd", "share": 0.1, "seed": 0, "accuracy": 0.5}
    return Row(**(known | {"parameters": 20, "dense_parameters": 100, "seconds": 3.0, "epochs": 4} | given))


def test_parameters_count_what_a_set_stores_and_all_else_as_it_is():
    model = nn.Sequential(nn.Linear(16, 16), nn.Linear(16, 3))
    assert parameters(model) == 16 * 16 + 16 + 51
    assert parameters(model, {"0": SparseSet(7)}) == 7 + 16 + 51
    assert parameters(model, {"0": TensorTrainSet(EntryBudget(0.5))}) == 128 + 16 + 51


def test_a_cell_is_the_mean_and_half_the_range():
    assert [cell([]), cell([12.34]), cell([1.0, 2.0, 4.0])] == ["", "12.3", "2.3 ±1.5"]


def test_the_table_has_a_row_a_method_and_a_column_a_share():
    rows = [
        row(),
        row(seed=1, accuracy=0.7),
        row(share=1.0, method="sgd", cut="none", parameters=100),
        row(network="m"),
    ]
    text = "\n".join(table(rows))
    assert "| method | cut | seconds | dense | 10% of entries, 20.0% of parameters |" in text
    assert "| bcd |  | 3 |  | 60.0 ±10.0 |" in text
    assert "| sgd | none | 3 | 50.0 |  |" in text
    assert text.count("###") == 2


def test_rows_replace_those_of_their_own_runs_alone(tmp_path):
    old = [row(), row(network="m"), row(method="sgd", cut="none"), row(method="sgd", cut="low rank")]
    write(tmp_path, old)
    new = [row(accuracy=0.9), row(method="sgd", cut="none", accuracy=0.8)]
    write(tmp_path, new)
    found = [Row(**json.loads(line)) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert found == [old[1], *new]


@pytest.mark.parametrize("file", sorted(RECIPES.glob("*.yaml")), ids=lambda file: file.stem)
def test_the_recipes_of_the_study_can_be_read(file):
    recipe = Recipe.from_yaml(file)
    assert recipe.data.name in STUDIES
    assert recipe.run_name == f"bcd-study/{file.stem}-0"


@pytest.mark.slow
def test_the_study_runs_and_goes_on_where_it_was(tmp_path):
    arguments = ["digits", "--quick", "--seeds", "1", "--runs", str(tmp_path / "runs"), "-o", str(tmp_path / "out")]
    main(arguments)
    first = (tmp_path / "out" / "rows.jsonl").read_text()
    rows = [json.loads(line) for line in first.splitlines()]
    assert {one["network"] for one in rows} == {"mlp-4", "mlp-5", "cnn"}
    for one in rows:
        if one["method"] == "bcd":
            (trains,) = [
                r for r in rows if r["method"] == "sgd-trains" and all(r[k] == one[k] for k in ("network", "share"))
            ]
            assert trains["parameters"] == one["parameters"] < one["dense_parameters"]
            cut = [r for r in rows if r["cut"] == "low rank" and r["share"] == one["share"]]
            assert one["network"] != "mlp-4" or all(r["parameters"] <= one["parameters"] for r in cut)
    started = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("metrics.jsonl")}
    main(arguments)
    assert (tmp_path / "out" / "rows.jsonl").read_text() == first
    assert {file: file.stat().st_mtime_ns for file in tmp_path.rglob("metrics.jsonl")} == started
    assert (tmp_path / "out" / "table.md").read_text().count("###") == 3
