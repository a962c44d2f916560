"""Real architectures: each is cut exactly, or refused by name."""

from __future__ import annotations

from pathlib import Path

import pytest
from zoo_check import FRACTIONS, build, check
from zoo_models import ZOO
from zoo_table import line, lines_of, render

PAGE = Path(__file__).resolve().parents[2] / "docs" / "architectures.md"
LINES = lines_of(PAGE.read_text(encoding="utf-8"))
LIBRARIES = {"torchvision", "timm", "transformers"}
FAST = [architecture for architecture in ZOO if architecture.fast]
SLOW = [architecture for architecture in ZOO if not architecture.fast]


def check_line(architecture):
    """Every promise is checked on the way to the line of the page."""
    if architecture.source in LIBRARIES:
        pytest.importorskip(architecture.source)
    subject = build(architecture)
    found = line(architecture, [check(subject, compressor) for compressor in FRACTIONS])
    assert found == LINES[architecture.name], f"run scripts/architectures.py {architecture.name!r}"


@pytest.mark.parametrize("architecture", FAST, ids=str)
def test_a_handful_is_cut_exactly_as_the_page_says(architecture):
    check_line(architecture)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("architecture", SLOW, ids=str)
def test_every_architecture_is_cut_exactly_as_the_page_says(architecture):
    check_line(architecture)


def test_the_page_lists_the_zoo_and_nothing_else():
    assert list(LINES) == [architecture.name for architecture in ZOO]
    assert PAGE.read_text(encoding="utf-8") == render(LINES)


def test_the_zoo_is_large_and_most_of_it_can_be_cut():
    assert len({architecture.name for architecture in ZOO}) == len(ZOO) >= 44
    lines = [text.split(" | ") for text in LINES.values()]
    assert sum(cells[2] != "refused" for cells in lines[:40]) >= 36
    assert all(cells[6] == "yes" for cells in lines[:40])
