"""Options that need reading."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

_SLACK = 1e-9

COMPRESSOR_NAMES = (
    "filters, low-rank, tensor-train, both, unstructured; filters:reconstruction, both:reconstruction, both:closest; "
    "with :spatial behind low-rank or both, ranks make k x 1 and 1 x k of convolutions; package.module:name: your own."
)
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


def target_of(text: str | None, name: str) -> float | int | None:
    """Read what may stay: "50%" and "0.5" are a share of what there was, "1200000" and "1_200_000" a count.

    Raises:
        ValueError: the text is neither.

    >>> target_of("50%", "macs"), target_of("0.25", "macs"), target_of("1_200_000", "macs")
    (0.5, 0.25, 1200000)
    """
    if text is None:
        return None
    try:
        if text.endswith("%"):
            return float(text.removesuffix("%")) / 100
        return int(text) if text.replace("_", "").isdecimal() else float(text)
    except ValueError:
        raise ValueError(f"{name} must look like 50%, 0.5 or 1200000, found {text!r}") from None


def check_one(given: Mapping[str, object]) -> None:
    """Check that at most one of some options is given.

    Raises:
        ValueError: naming those that are.
    """
    names = [name for name, value in given.items() if value is not None]
    if len(names) > 1:
        raise ValueError(f"{', '.join(given)} exclude each other, found {' and '.join(names)}: give one of them")
