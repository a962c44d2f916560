"""Decode PNG, JPEG and other images into uint8 arrays."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np

from pliant.data.errors import CorruptDataError
from pliant.data.optional import require

if TYPE_CHECKING:
    from pathlib import Path

    from PIL.Image import Image

_BROKEN = (OSError, SyntaxError, ValueError, EOFError)  # what Pillow's decoders raise for damaged files


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
    pillow = require("PIL.Image")
    try:
        with pillow.open(io.BytesIO(content)) as image:
            found = image.size
            pixels = _pixels(image) if found == (size, size) else None
    except (*_BROKEN, pillow.DecompressionBombError) as error:
        raise CorruptDataError(f"{where}: not a readable image ({error})") from error
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
        CorruptDataError: not a readable image.
    """
    pillow, operations = require("PIL.Image"), require("PIL.ImageOps")
    try:
        with pillow.open(path) as image:
            return _pixels(operations.fit(image.convert("RGB"), (size, size), pillow.Resampling.BILINEAR))
    except (*_BROKEN, pillow.DecompressionBombError) as error:
        raise CorruptDataError(f"{path}: not a readable image ({error}); replace or remove it") from error


def _pixels(image: Image) -> np.ndarray:
    return np.asarray(image.convert("RGB"), dtype=np.uint8).transpose(2, 0, 1)
