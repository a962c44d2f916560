"""The IDX format of MNIST and its relatives, plain or gzipped.

Two zero bytes, a type code (8: unsigned byte), the number of dimensions, each dimension as a big-endian
32-bit integer, then the values.
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from typing import IO, TYPE_CHECKING, cast

import numpy as np

from pliant.data.errors import CorruptDataError

if TYPE_CHECKING:
    from pathlib import Path

_UBYTE = 8
_MOST_GROWTH = 100  # by unpacking; images and labels grow two to fivefold
_ALWAYS_FINE = 2**26  # bytes after unpacking


def read_idx(path: Path, *, dims: int) -> np.ndarray:
    """Read unsigned bytes, checking the header before anything of its size is allocated.

    Args:
        path: the file; a name that ends in ``.gz`` is unpacked while reading.
        dims: how many dimensions the array must have.

    Raises:
        CorruptDataError: another format, another number of dimensions, or another length than announced.
    """
    packed = path.suffix == ".gz"
    try:
        with gzip.open(path) if packed else path.open("rb") as opened:
            file = cast("IO[bytes]", opened)
            shape, header = _shape(path, file, dims)
            count = math.prod(shape)
            _check_size(path, header + count, packed=packed)
            values = file.read(count + 1)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise CorruptDataError(f"{path}: not a whole gzip file ({error}); fetch it again") from error
    if len(values) != count:
        found = "more" if len(values) > count else f"{len(values)}"
        raise CorruptDataError(f"{path}: the header {shape} announces {count} values, found {found}")
    return np.frombuffer(values, dtype=np.uint8).reshape(shape)


def _shape(path: Path, file: IO[bytes], dims: int) -> tuple[tuple[int, ...], int]:
    header = file.read(4 + 4 * dims)
    expected = bytes((0, 0, _UBYTE, dims))
    if header[:4] != expected:
        raise CorruptDataError(f"{path}: an IDX file starts with {expected.hex()}, found {header[:4].hex()}")
    if len(header) < 4 + 4 * dims:
        raise CorruptDataError(f"{path}: truncated in its header, after {len(header)} bytes")
    return struct.unpack(f">{dims}I", header[4:]), len(header)


def _check_size(path: Path, announced: int, *, packed: bool) -> None:
    size = path.stat().st_size
    if (announced > max(size * _MOST_GROWTH, _ALWAYS_FINE)) if packed else (announced != size):
        unit = "gzipped bytes" if packed else "bytes"
        raise CorruptDataError(f"{path}: the header announces {announced} bytes, the file has {size} {unit}")
