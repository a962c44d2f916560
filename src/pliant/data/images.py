"""Decode PNG, JPEG and other images into uint8 arrays."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

from pliant.data.errors import CorruptDataError
from pliant.data.optional import require

if TYPE_CHECKING:
    from pathlib import Path

    from PIL.Image import Image

_BROKEN = (  # what Pillow's decoders raise for damaged files
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
)
# Others stay shut: some of Pillow's formats hand the file to another program.
_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")


def decode_exact(content: bytes, *, size: int, where: str) -> np.ndarray:
    """Decode a colour image that must be ``size`` pixels high and wide.

    Args:
        content: the file's bytes.
        size: in pixels.
        where: names the image in errors.

    Returns:
        uint8, ``(3, size, size)``.

    Raises:
        CorruptDataError: not an image, or of another size; the size is checked before pixels are decoded.
    """
    with _opened(lambda: content, f"{where}: not a readable image") as image:
        found = image.size
        pixels = _pixels(image) if found == (size, size) else None
    if pixels is None:
        raise CorruptDataError(f"{where}: the image must be {size}x{size} pixels, found {found}")
    return pixels


def decode_resized(path: Path, *, size: int) -> np.ndarray:
    """Decode an image file as colour, scale its shorter side to ``size`` and cut out the centre.

    Args:
        path: the file.
        size: in pixels.

    Returns:
        uint8, ``(3, size, size)``.

    Raises:
        CorruptDataError: not a readable image, or one of more pixels than Pillow takes for harmless.
    """
    pillow, operations = require("PIL.Image"), require("PIL.ImageOps")
    with _opened(path.read_bytes, f"{path}: not a readable image; replace or remove it") as image:
        return _pixels(operations.fit(image.convert("RGB"), (size, size), pillow.Resampling.BILINEAR))


@contextmanager
def _opened(read: Callable[[], bytes], problem: str) -> Iterator[Image]:
    """Open an image that is in memory: asked for more than there is, a file would set it all aside first."""
    pillow = require("PIL.Image")
    bombs = (pillow.DecompressionBombWarning, pillow.DecompressionBombError)
    try:
        with warnings.catch_warnings(action="ignore"):  # of damaged metadata
            warnings.simplefilter("error", pillow.DecompressionBombWarning)
            with pillow.open(io.BytesIO(read()), formats=_FORMATS) as image:
                yield image
    except (*_BROKEN, *bombs) as error:
        raise CorruptDataError(f"{problem} ({error})") from error


def _pixels(image: Image) -> np.ndarray:
    return np.asarray(image.convert("RGB"), dtype=np.uint8).transpose(2, 0, 1)
