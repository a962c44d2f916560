"""Read the pickles of CIFAR without trusting them.

Only a dictionary of plain containers, numbers, strings and numeric arrays comes out. Nothing that a
pickle names is ever imported or called: the handful of NumPy names that an array needs stand for builders
of this module.
"""

from __future__ import annotations

import functools
import io
import pickle
import pickletools
import re
from typing import TYPE_CHECKING, final

import numpy as np

from pliant.data.errors import CorruptDataError, UnsafePickleError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_DTYPE = re.compile(r"[<>|=]?[biuf][1248]")
_STATE = 5  # an array's state: version, shape, dtype, is it column-major, bytes
_MEMO_WRITES = frozenset({"PUT", "BINPUT", "LONG_BINPUT"})
_TUPLES = frozenset({"TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"})
_MOST_BYTES = 2**30
_MOST_OPCODES = 2**21  # an empty set takes one byte in the file and 216 in memory
_MOST_TUPLES = 500  # an array has three; hashing deeply nested ones overflows the interpreter's stack
_DAMAGE = (
    pickle.UnpicklingError,
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
)


def read_pickle(path: Path) -> dict[object, object]:
    """Read one file that holds a dictionary.

    Args:
        path: a pickle of a dictionary, of Python 2 or 3, whose values are numeric arrays or plain
            containers. Strings of Python 2 come out as bytes.

    Raises:
        UnsafePickleError: it names anything else; nothing of it has been executed.
        CorruptDataError: it is damaged or truncated, or larger than such files are.
    """
    size = path.stat().st_size
    if size > _MOST_BYTES:
        raise CorruptDataError(f"{path}: at most {_MOST_BYTES:,} bytes can be such a pickle, found {size:,}")
    file = path.read_bytes()
    try:
        _check_opcodes(path, file)
        content = _Reader(file).load()
    except UnsafePickleError as error:
        raise UnsafePickleError(f"{path}: {error}") from None
    except _DAMAGE as error:
        raise CorruptDataError(f"{path}: not a readable pickle ({error!s:.200}); fetch it again") from error
    if not isinstance(content, dict):
        raise CorruptDataError(f"{path}: a dictionary is needed, found a {type(content).__name__}")
    return {key: item.value if isinstance(item, _Array) else item for key, item in content.items()}


def _check_opcodes(path: Path, content: bytes) -> None:
    """Walk through the file once: what it builds must be in proportion before anything is allocated."""
    tuples = 0
    for number, (opcode, argument, _) in enumerate(pickletools.genops(content)):
        tuples += opcode.name in _TUPLES
        if number >= _MOST_OPCODES or tuples > _MOST_TUPLES:
            raise ValueError(f"{path.name} has too many parts")
        if opcode.name in _MEMO_WRITES and int(argument or 0) > len(content):
            raise ValueError(f"{path.name} asks for memo slot {argument}")


@final
class _Reader(pickle.Unpickler):
    """An unpickler to which every name but those of an array is unknown."""

    def __init__(self, content: bytes) -> None:
        super().__init__(io.BytesIO(content), encoding="bytes")
        latin1 = functools.cache(_latin1)  # so that a text that the file repeats by number is not copied each time
        self._builders: dict[str, Callable[..., object]] = {**_BUILDERS, "_codecs.encode": latin1}

    def find_class(self, module_name: str, global_name: str, /) -> _Builder:
        """Give the builder for a name.

        Raises:
            UnsafePickleError: there is none.
        """
        build = self._builders.get(f"{module_name}.{global_name}")
        if build is None:
            raise UnsafePickleError(f"refused, it asks for {module_name}.{global_name}")
        return _Builder(build)


@final
class _Builder:
    """Calls a function for the unpickler, and cannot be given a state."""

    __slots__ = ("_build",)

    def __init__(self, build: Callable[..., object]) -> None:
        self._build = build

    def __call__(self, *args: object) -> object:
        return self._build(*args)

    def __setstate__(self, state: object) -> None:
        raise UnsafePickleError("refused, it sets the state of a function")


@final
class _DType:
    """The type code of an array; the byte order comes with its state."""

    __slots__ = ("code",)

    def __init__(self, code: object, *_: object) -> None:
        text = code.decode("ascii") if isinstance(code, bytes) else str(code)
        if not _DTYPE.fullmatch(text):
            raise UnsafePickleError(f"refused, it asks for an array of type {text!r}")
        self.code = text

    def __setstate__(self, state: object) -> None:
        order = state[1] if isinstance(state, tuple) and len(state) > 1 else "|"
        text = order.decode("ascii") if isinstance(order, bytes) else str(order)
        self.code = f"{text}{self.code.lstrip('<>|=')}"


@final
class _Array:
    """An array on its way: its state is checked before it becomes one."""

    __slots__ = ("value",)

    def __init__(self, *_: object) -> None:
        self.value: np.ndarray | None = None

    def __setstate__(self, state: object) -> None:
        if not isinstance(state, tuple) or len(state) != _STATE:
            raise UnsafePickleError("refused, an array has an unknown state")
        _, shape, dtype, column_major, values = state
        if not isinstance(dtype, _DType) or not isinstance(values, bytes):
            raise UnsafePickleError("refused, an array holds something other than numbers")
        self.value = _array(values, dtype, shape, "F" if column_major else "C")


def _array(values: bytes, dtype: object, shape: tuple[int, ...], order: str) -> np.ndarray:
    if not isinstance(dtype, _DType):
        raise UnsafePickleError("refused, an array has no numeric type")
    flat = np.frombuffer(values, dtype=np.dtype(dtype.code))  # no copy: a file can ask for the same bytes many times
    return flat.reshape(shape, order="F" if order == "F" else "C")


def _latin1(text: str, encoding: str) -> bytes:
    """How Python 3 writes bytes into the older pickle protocols."""
    if encoding not in ("latin1", b"latin1"):
        raise UnsafePickleError(f"refused, it asks for the codec {encoding!r}")
    return text.encode("latin1")


_BUILDERS: dict[str, Callable[..., object]] = {
    "numpy.core.multiarray._reconstruct": _Array,
    "numpy._core.multiarray._reconstruct": _Array,
    "numpy.core.numeric._frombuffer": _array,
    "numpy._core.numeric._frombuffer": _array,
    "numpy.ndarray": _Array,
    "numpy.dtype": _DType,
}
