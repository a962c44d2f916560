"""The sizes that a model can be built for."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def check_sizes(model: str, *, num_classes: int, in_channels: int, image_size: int, smallest: int = 1) -> None:
    """Refuse sizes that the model cannot have.

    Args:
        model: its name, for the message.
        num_classes: at least 1.
        in_channels: at least 1.
        image_size: at least ``smallest``, in pixels.
        smallest: the smallest image that the model's strides and windows leave something of.

    Raises:
        ValueError: one of them is too small.
    """
    for name, value, least in (
        ("num_classes", num_classes, 1),
        ("in_channels", in_channels, 1),
        ("image_size", image_size, smallest),
    ):
        if value < least:
            raise ValueError(f"{model}: {name} must be at least {least}, found {value}")


def check_widths(model: str, widths: Sequence[int], *, layers: int) -> None:
    """Refuse widths that are not ``layers`` positive integers.

    Raises:
        ValueError: another number of them, or one that is not positive.
    """
    if len(widths) != layers or min(widths) < 1:
        raise ValueError(f"{model}: widths must be {layers} positive integers, found {tuple(widths)}")


def check_share(model: str, name: str, value: float) -> None:
    """Refuse a dropout probability outside [0, 1).

    Raises:
        ValueError: the value lies outside.
    """
    if not 0 <= value < 1:
        raise ValueError(f"{model}: {name} must lie in [0, 1), found {value}")
