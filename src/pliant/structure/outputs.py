"""The tensors in what a model returned."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping

from torch import Tensor, nn


def outputs_of(value: object) -> list[tuple[Tensor, str]]:
    """Return the tensors in what a model returned, whatever holds them, each with its place in words.

    Args:
        value: tensors in tuples, lists, mappings, dataclasses, or attributes of objects.

    Raises:
        ValueError: if there is none: nobody could tell what the model computes.
    """
    found = list(_tensors(value, "", 0))
    if not found:
        raise ValueError(
            "the model must return tensors, alone or in tuples, lists, mappings, dataclasses or attributes of objects; "
            f"found a {type(value).__name__} without any"
        )
    return found


def _tensors(value: object, path: str, depth: int) -> Iterator[tuple[Tensor, str]]:
    if isinstance(value, Tensor):
        yield value, f" ({path})" if path else ""
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _tensors(item, f"{path}[{key!r}]", depth + 1)
    elif isinstance(value, list | tuple | set | frozenset):
        for index, item in enumerate(value):
            yield from _tensors(item, f"{path}[{index}]" if depth else path, depth + 1)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            yield from _tensors(getattr(value, field.name), f"{path}.{field.name}", depth + 1)
    elif (
        isinstance(value, object)
        and depth < _DEEP
        and not isinstance(value, str | bytes | int | float | type | nn.Module)
    ):
        for name, item in getattr(value, "__dict__", {}).items():
            yield from _tensors(item, f"{path}.{name}", depth + 1)


_DEEP = 8  # caches of keys and values hold tensors a few objects down; something may hold itself
