"""Markdown tables, and pages whose marked blocks are written by the run."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

Row = dict[str, Any]  # names to plain data: what JSON carries


@dataclass(frozen=True)
class Column:
    """One column of a table.

    Args:
        title: its head.
        key: of the row; a row without it, or with None, shows a dash.
        text: how a value is written.
    """

    title: str
    key: str
    text: Callable[[Any], str] = str


def table(columns: Sequence[Column], rows: Sequence[Row]) -> str:
    """Return a Markdown table."""
    head = [f"| {' | '.join(column.title for column in columns)} |", "|---" * len(columns) + "|"]
    return "\n".join([*head, *(f"| {' | '.join(_cell(column, row) for column in columns)} |" for row in rows)])


def _cell(column: Column, row: Row) -> str:
    value = row.get(column.key)
    return "-" if value is None else column.text(value)


def seconds(value: float) -> str:
    """Write a duration with three digits: 1.23 s, 45.6 ms, 789 µs."""
    scale, unit = (1, "s") if value >= 1 else (1e3, "ms") if value >= 1e-3 else (1e6, "µs")
    return f"{value * scale:.3g} {unit}" if value * scale < 100 else f"{value * scale:.0f} {unit}"


def times(value: float) -> str:
    """Write a ratio: 2.34x."""
    return f"{value:.2f}x" if value < 10 else f"{value:.0f}x"


def percent(value: float) -> str:
    """Write a share: 3.4 %."""
    return f"{100 * value:.2g} %" if value < 0.1 else f"{100 * value:.0f} %"


def digits(value: float) -> str:
    """Write a quality: 0.9987."""
    return f"{value:.4f}"


def mebibytes(value: float) -> str:
    """Write bytes as MiB."""
    return f"{value / 2**20:.3g} MiB"


def blocks(page: str) -> list[str]:
    """Return the names of the marked blocks of a page, `<!-- bench:NAME -->` to `<!-- /bench:NAME -->`, in order."""
    return re.findall(r"<!-- bench:([\w-]+) -->", page)


def fill(page: str, name: str, body: str) -> str:
    """Return the page with the block of this name holding `body`.

    Raises:
        ValueError: if the page has not exactly one such block.
    """
    pattern = re.compile(rf"(<!-- bench:{name} -->\n).*?(<!-- /bench:{name} -->)", flags=re.DOTALL)
    filled, count = pattern.subn(lambda match: f"{match[1]}{body.strip()}\n{match[2]}", page)
    if count != 1:
        raise ValueError(f"the page must have one block bench:{name}, found {count}")
    return filled
