"""Functions and classes of the user's own by their import path, and the arguments that functions are called with."""

from __future__ import annotations

import importlib
import inspect
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

T = TypeVar("T")


def imported(name: str) -> Callable[..., Any]:
    """Import a function of the user's own.

    Args:
        name: "package.module:function", given by the user; never by a file.

    Raises:
        ValueError: if it cannot be imported, or is nothing that can be called.
    """
    function = _found(name, "function")
    if not callable(function):
        raise ValueError(f"{name}: {_lacking(name, 'function')}")
    checked: Callable[..., Any] = function
    return checked


def imported_class(name: str, base: type[T]) -> type[T]:
    """Import a class of the user's own.

    Args:
        name: "package.module:Class".
        base: what it must derive from.

    Raises:
        ValueError: if it cannot be imported, is no such class, or lacks methods that the base asks for.
    """
    found = _found(name, "Class")
    if not isinstance(found, type):
        raise ValueError(f"{name}: {_lacking(name, 'class')}")
    if not issubclass(found, base):
        raise ValueError(f"{name}: must be a subclass of {base.__name__} ({base.__module__})")
    if missing := sorted(getattr(found, "__abstractmethods__", ())):
        raise ValueError(f"{name}: {base.__name__} asks for {', '.join(missing)} as well: define what is missing")
    return found


def called(
    name: str, function: Callable[..., object], offered: Mapping[str, object], args: Mapping[str, object]
) -> object:
    """Call a function with those of the offered arguments that it accepts by keyword, and all of the others.

    Args:
        name: of the function, for messages.
        function: what is called.
        offered: what it may take.
        args: what it must take; these win.

    Raises:
        ValueError: an argument that it does not take or lacks; or it raises, and that is the error's cause.
    """
    keywords = _accepted(name, function, offered, args)
    try:
        return function(**keywords)
    except Exception as error:
        given = ", ".join(f"{key}={value!r}" for key, value in keywords.items()) or "no argument"
        raise ValueError(f"{name}: raised {type(error).__name__}: {error} (called with {given})") from error


def needs(function: Callable[..., object]) -> list[str]:
    """Return the names of the arguments that a function has no default for."""
    variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    parameters = inspect.signature(function).parameters
    return [key for key, p in parameters.items() if p.default is p.empty and p.kind not in variable]


def is_path(name: str) -> bool:
    """Tell whether a name has the form "package.module:name"."""
    module, _, attribute = name.partition(":")
    return all(part.isidentifier() for part in (*module.split("."), attribute))


def _found(name: str, kind: str) -> object:
    if not is_path(name):
        raise ValueError(f"name must have the form 'package.module:{kind}', found {name!r}")
    module_name, _, attribute = name.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        own = f"{module_name}.".startswith(f"{error.name}.")  # not something that the module itself lacks
        hint = "; install it, or name its folder in PYTHONPATH" if own else ""
        raise ValueError(f"{name}: cannot import {module_name!r} ({error}){hint}") from error
    return getattr(module, attribute, None)


def _lacking(name: str, kind: str) -> str:
    module_name, _, attribute = name.partition(":")
    return f"{module_name!r} has no {kind} {attribute!r}"


def _accepted(
    name: str, function: Callable[..., object], offered: Mapping[str, object], args: Mapping[str, object]
) -> dict[str, object]:
    parameters = inspect.signature(function).parameters
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return {**offered, **args}
    keywords = {key for key, p in parameters.items() if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)}
    unknown = sorted(set(args) - keywords)
    if unknown:
        besides = [key for key in offered if key in keywords]
        none = f"no arguments besides {', '.join(besides)}" if besides else "no arguments"
        allowed = ", ".join(sorted(keywords - set(offered))) or none
        raise ValueError(f"{name}: takes {allowed}, found {', '.join(unknown)}")
    given = {**{key: value for key, value in offered.items() if key in keywords}, **args}
    missing = [key for key in needs(function) if key not in given]
    if missing:
        raise ValueError(f"{name}: needs {', '.join(missing)} as well; give them in args")
    return given
