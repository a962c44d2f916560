"""The page about recipes says what the program checks."""

import re
from pathlib import Path

from recipe_reference import PAGE, filled

from pliant.training.recipe import Recipe
from pliant.training.reference import recipe_reference


def test_the_page_of_recipes_is_up_to_date():
    assert PAGE.read_text() == filled(PAGE.read_text()), "run: python scripts/recipe_reference.py"


def test_its_links_lead_to_headings_that_are_there_once():
    text = recipe_reference()
    lines = re.findall(r"^### (.*)", text, re.MULTILINE)
    headings = [re.sub(r"[^\w -]", "", line.lower()).replace(" ", "-") for line in lines]
    assert len(set(headings)) == len(headings)
    assert set(re.findall(r"\(#([^)]*)\)", text)) <= set(headings)


def test_its_first_example_is_a_recipe(tmp_path):
    (example,) = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(), re.DOTALL)
    file = Path(tmp_path) / "tiny.yaml"
    file.write_text(example)
    assert Recipe.from_yaml(file).run_name == "tiny-0"


def test_every_key_of_a_recipe_with_its_default_is_in_it():
    text = recipe_reference()
    assert "| `batch_size` | integer ≥ 1 | `128` |" in text
    assert "| `lr` | number ≥ 0 | `0.05` |" in text
    plain = Recipe.model_validate({"name": "r", "method": {"type": "sgd"}}).model_dump()
    keys = {key for section in ("data", "model", "train", "method", "sweep") for key in plain[section]} | plain.keys()
    assert {key for key in keys if f"| `{key}` |" not in text} == set()
