"""Presets: settings of a method that are meant to serve networks and data which they were not tuned on."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

from pliant.training.recipe_file import RecipeError, parse

PRESETS = {
    "filters": "SGD at random cuts of the filters, so that filters can go afterwards",
    "low-rank": "SGD at random cuts of the spatial rank, so that rank can go afterwards",
    "both": "SGD at random cuts of filters or rank, so that both can go afterwards",
    "sfw-filters": "SFW, so that filters can go afterwards",
    "sfw-low-rank": "SFW, so that rank can go afterwards",
    "sfw-both": "SFW, so that filters, rank, both or single weights can go afterwards",
}

PRESET = "{preset}"


def with_preset(name: str, data: dict[str, Any]) -> dict[str, Any]:
    """Return the data of a recipe, completed by a preset.

    Args:
        name: of the preset.
        data: of a recipe that says no method; an empty one gets the name of the preset, digits and cnn-4. In a name,
            "{preset}" stands for that of the preset.

    Raises:
        RecipeError: there is no such preset, or the recipe has a method of its own.
    """
    if name not in PRESETS:
        raise RecipeError(f"the preset must be one of {', '.join(PRESETS)}, found {name!r}")
    if "method" in data:
        raise RecipeError(f"the recipe has a method of its own: leave it out, or train without the preset {name!r}")
    text = (files("pliant") / "recipes" / "presets" / f"{name}.yaml").read_text(encoding="utf-8")
    preset: dict[str, Any] = parse(text, f"preset {name}")
    named = {"name": str(data["name"]).replace(PRESET, name)} if "name" in data else {}
    return {"name": f"{name}-{{seed}}", **preset, **data, **named}
