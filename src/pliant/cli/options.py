"""Options that need reading."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import typer

_SLACK = 1e-9

DataRootOption = Annotated[
    Path | None, typer.Option("--data-root", metavar="FOLDER", help="Where the data is; also PLIANT_DATA, data.root.")
]


def fractions_of(text: str) -> list[float]:
    """Read fractions: "0:0.9:0.1" (first, last, step; the last is included) or "0.3,0.5".

    Raises:
        ValueError: the text is neither.

    >>> fractions_of("0:0.9:0.3"), fractions_of("0.5")
    ([0.0, 0.3, 0.6, 0.9], [0.5])
    """
    try:
        parts = [float(part) for part in text.split(":" if ":" in text else ",")]
        if ":" not in text:
            return parts
        first, last, step = parts
        count = math.floor((last - first) / step + _SLACK) + 1
    except (ValueError, ZeroDivisionError):
        count = 0
    if count < 1:
        raise ValueError(f"fractions must look like 0:0.9:0.1 or 0.3,0.5,0.7, found {text!r}")
    return [round(first + index * step, 9) for index in range(count)]
