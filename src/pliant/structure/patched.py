"""Forwards that were set on single modules, and whether a deep copy of the module takes them along."""

from __future__ import annotations

import dis
import functools
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType

from torch import Tensor, nn


def is_patched(module: nn.Module) -> bool:
    """Tell whether a module has a forward of its own, instead of its class's."""
    return "forward" in vars(module)


def follows_copies(value: object) -> bool:
    """Tell whether what a deep copy makes of a forward uses the modules and tensors of the copy alone.

    A deep copy binds methods and `functools.partial` anew. It takes functions as they are, with the variables that they
    read, and with the modules and tensors that these hold.
    """
    if isinstance(value, MethodType):
        return follows_copies(value.__func__)
    if isinstance(value, functools.partial):
        return all(map(follows_copies, (value.func, *value.args, *value.keywords.values())))
    return not isinstance(value, FunctionType) or not _any_holds(_variables(value), set())


def _any_holds(values: Iterable[object], seen: set[int]) -> bool:
    """Tell whether one of these is a module or tensor, or leads to one."""
    for value in values:
        if id(value) not in seen:
            seen.add(id(value))
            if isinstance(value, nn.Module | Tensor) or _any_holds(_within(value), seen):
                return True
    return False


def _within(value: object) -> Iterator[object]:
    if isinstance(value, FunctionType):
        yield from () if _is_shared(value) else _variables(value)
    elif isinstance(value, MethodType):
        yield from (value.__self__, value.__func__)
    elif isinstance(value, BuiltinFunctionType):
        yield value.__self__
    elif isinstance(value, functools.partial):
        yield from (value.func, *value.args, *value.keywords.values())
    elif isinstance(value, dict):
        yield from value.values()
    elif isinstance(value, list | tuple | set | frozenset):
        yield from value
    elif not isinstance(value, ModuleType | type):
        yield from getattr(value, "__dict__", {}).values()


def _is_shared(value: FunctionType) -> bool:
    """Tell whether this is the function that an imported library has under its name: it knows of no single model."""
    if value.__module__ == "__main__":
        return False
    found: object = sys.modules.get(value.__module__ or "")
    for part in value.__qualname__.split("."):
        found = getattr(found, part, None)
    return found is value


def _variables(function: FunctionType) -> Iterator[object]:
    """Return what a function reads that is not an argument."""
    for cell in function.__closure__ or ():
        with suppress(ValueError):  # a variable that has no value yet
            yield cell.cell_contents
    yield from (*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values())
    names = {name for code in _codes(function.__code__) for name in _globals_of(code)}
    yield from (function.__globals__[name] for name in sorted(names) if name in function.__globals__)


def _codes(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)


def _globals_of(code: CodeType) -> Iterator[str]:
    return (step.argval for step in dis.get_instructions(code) if step.opname == "LOAD_GLOBAL")
