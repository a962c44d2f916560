"""Write the reference of recipes into its page, docs/recipes.md."""

from __future__ import annotations

import re
from pathlib import Path

from pliant import atomic
from pliant.training.reference import recipe_reference

PAGE = Path(__file__).resolve().parents[1] / "docs" / "recipes.md"
BLOCK = re.compile(r"(<!-- reference -->\n).*(\n<!-- /reference -->)", re.DOTALL)


def filled(text: str) -> str:
    """Return the page with the reference as it is now."""
    return BLOCK.sub(lambda found: f"{found[1]}{recipe_reference()}{found[2]}", text)


if __name__ == "__main__":
    atomic.write_text(PAGE, filled(PAGE.read_text(encoding="utf-8")))
