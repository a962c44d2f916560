"""What had to stay whole, in short, for budgets that cannot be met without it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

_MOST = 3  # reasons, and names for each


def staying(skipped: Mapping[str, str]) -> str:
    """Return the end of a message that says which layers stay whole and why; nothing if none does.

    Args:
        skipped: layer name -> reason.

    >>> staying({"fc": "an output of the model", "a": "is tied", "b": "is tied"})
    '; these stay whole: a, b (is tied), fc (an output of the model)'
    """
    names: dict[str, list[str]] = {}
    for name, reason in skipped.items():
        names.setdefault(reason, []).append(name)
    ordered = sorted(names.items(), key=lambda pair: -len(pair[1]))
    return f"; these stay whole: {_some([f'{_some(who)} ({reason})' for reason, who in ordered])}" if names else ""


def _some(texts: Sequence[str]) -> str:
    more = f" and {len(texts) - _MOST} more" if len(texts) > _MOST else ""
    return ", ".join(texts[:_MOST]) + more
