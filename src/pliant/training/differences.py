"""Differences between two recipes, in words."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

_LONGEST = 60  # characters of a value
_ABSENT = object()


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Return every key whose value has changed, with both values; empty where none has.

    Of sections of another `type` only the type is named: their other keys mean something else.

    >>> differences({"seed": 0, "train": {"epochs": 3}}, {"seed": 0, "train": {"epochs": 5}})
    'train.epochs: 3 -> 5'
    >>> differences({"method": {"type": "sgd", "lr": 0.1}}, {"method": {"type": "sfw", "k": 0.3}})
    'method.type: "sgd" -> "sfw"'
    """
    return ", ".join(f"{key}: {_text(one)} -> {_text(other)}" for key, one, other in _changes(before, now, ""))


def _changes(before: Mapping[str, Any], now: Mapping[str, Any], above: str) -> Iterator[tuple[str, object, object]]:
    other_type = before.get("type") != now.get("type")
    for key in ["type"] if other_type else dict.fromkeys([*before, *now]):
        one, other = before.get(key, _ABSENT), now.get(key, _ABSENT)
        if isinstance(one, Mapping) and isinstance(other, Mapping):
            yield from _changes(one, other, f"{above}{key}.")
        elif one != other:
            yield f"{above}{key}", one, other


def _text(value: object) -> str:
    if value is _ABSENT:
        return "nothing"
    text = json.dumps(value, default=str)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
