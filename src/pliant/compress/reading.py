"""Reading plain data that nobody vouches for."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


class CutError(ValueError):
    """A cut that cannot be read, or that does not fit the model or compressor it is used with."""


def parse(text: str) -> object:
    """Read JSON text.

    Raises:
        CutError: if it is none.
    """
    try:
        return json.loads(text, parse_constant=_no_constant)
    except (TypeError, ValueError, RecursionError) as error:
        raise CutError(f"a cut must be JSON text: {type(error).__name__}: {error}") from error


def _no_constant(name: str) -> object:
    raise ValueError(f"{name} is not a number that JSON knows")


def take(data: Mapping[str, Any], name: str) -> Any:  # noqa: ANN401  (checked by the caller)
    """Return a field that must be there."""
    if name not in data:
        raise CutError(f"a cut needs the field {name!r}, found none")
    return data[name]


def mapping(value: object, what: str, fields: frozenset[str] | None = None) -> dict[str, Any]:
    """Return a JSON object, with exactly these fields if they are given."""
    if not isinstance(value, dict):
        raise CutError(f"{what} must be a JSON object, found {type(value).__name__}")
    if fields is not None and set(value) != fields:
        raise CutError(f"{what} must have exactly the fields {', '.join(sorted(fields))}, found {sorted(value)!r:.80}")
    return value


def items(value: object, what: str) -> list[Any]:
    """Return a JSON list."""
    if not isinstance(value, list):
        raise CutError(f"{what} must be a list, found {type(value).__name__}")
    return value


def text(value: object, what: str) -> str:
    """Return a JSON string."""
    if not isinstance(value, str):
        raise CutError(f"{what} must be text, found {value!r:.80}")
    return value


def texts(value: object, what: str) -> dict[str, str]:
    """Return a JSON object of strings."""
    return {name: text(item, f"{what}[{name!r}]") for name, item in mapping(value, what).items()}


def count(value: object, what: str, *, low: int = 0, high: int | None = None) -> int:
    """Return a whole number within bounds."""
    if isinstance(value, bool) or not isinstance(value, int) or value < low:
        raise CutError(f"{what} must be a whole number of at least {low}, found {value!r:.80}")
    if high is not None and value > high:
        raise CutError(f"{what} must be a whole number of at most {high}, found {value!r:.80}")
    return value


def share(value: object) -> float | None:
    """Return a fraction, or None."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0.0 <= value < 1.0:
        raise CutError(f"fraction must be null or a number with 0 <= fraction < 1, found {value!r:.80}")
    return float(value)
