"""Plain specifications of small frozen objects, so that saved files hold names and numbers and never live objects."""

from __future__ import annotations

import math
from dataclasses import fields, is_dataclass
from enum import Enum
from typing import Any, TypeVar

_REGISTRY: dict[str, type] = {}

T = TypeVar("T")


def register(cls: type[T]) -> type[T]:
    """Make a frozen dataclass or an enum known by its class name, so that `to_spec` and `from_spec` carry it.

    Raises:
        ValueError: if another class of that name is registered already.
    """
    known = _REGISTRY.get(cls.__name__)
    if known is not None and (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
        raise ValueError(f"a class named {cls.__name__} is registered already, by {known.__module__}")
    _REGISTRY[cls.__name__] = cls
    return cls


def to_spec(value: Any) -> Any:  # noqa: ANN401  (any registered object, or plain data)
    """Return plain data (dict, list, str, number, None) from which `from_spec` rebuilds the value.

    Raises:
        TypeError: if the value, or something in it, is neither plain data nor a registered dataclass.
    """
    if isinstance(value, Enum):
        return {"type": _name(value), "name": value.name}
    if is_dataclass(value) and not isinstance(value, type):
        return {"type": _name(value)} | {f.name: to_spec(getattr(value, f.name)) for f in fields(value) if f.init}
    if isinstance(value, list | tuple):
        return [to_spec(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return {"type": "float", "name": str(value)}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"{type(value).__name__} is neither plain data nor a registered dataclass: {value!r}")


def from_spec(spec: Any) -> Any:  # noqa: ANN401  (see to_spec)
    """Rebuild what `to_spec` described; only registered classes are built. Lists come back as tuples.

    Raises:
        ValueError: if the specification names a class that is not registered, or does not fit that class.
    """
    if isinstance(spec, list | tuple):
        return tuple(from_spec(item) for item in spec)
    if not isinstance(spec, dict):
        return spec
    given = {name: from_spec(value) for name, value in spec.items() if name != "type"}
    kind = spec.get("type")
    if kind == "float":
        return _nonfinite(given.get("name"))
    cls = _REGISTRY.get(kind) if isinstance(kind, str) else None
    if cls is None:
        raise ValueError(f"no registered class is named {kind!r}; known: {', '.join(sorted(_REGISTRY))}")
    if issubclass(cls, Enum):
        return _member(cls, given.get("name"))
    try:
        return cls(**given)
    except TypeError as error:
        raise ValueError(f"the specification of {kind} does not fit: {error}") from error


def _nonfinite(name: object) -> float:
    if name not in {"inf", "-inf", "nan"}:
        raise ValueError(f"the name of a float must be inf, -inf or nan, found {name!r}")
    return float(str(name))


def _member(cls: type[Enum], name: object) -> Enum:
    if not isinstance(name, str) or name not in cls.__members__:
        raise ValueError(f"{cls.__name__} must be one of {', '.join(cls.__members__)}, found {name!r}")
    return cls[name]


def _name(value: object) -> str:
    name = type(value).__name__
    if _REGISTRY.get(name) is not type(value):
        raise TypeError(f"{name} is not registered; decorate the class with pliant.spec.register")
    return name
