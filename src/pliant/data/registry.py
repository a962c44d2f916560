"""The table of data sets: from a name to what loads it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pliant.data.cifar10 import cifar10
from pliant.data.cifar100 import cifar100
from pliant.data.digits import digits
from pliant.data.fashion_mnist import fashion_mnist
from pliant.data.imagefolder import imagefolder
from pliant.data.uci_har import uci_har

if TYPE_CHECKING:
    import os
    from collections.abc import Callable

    from pliant.data.base import Dataset

NAMES: dict[str, Callable[..., Dataset]] = {
    "digits": digits,
    "fashion-mnist": fashion_mnist,
    "cifar10": cifar10,
    "cifar100": cifar100,
    "imagefolder": imagefolder,
    "uci-har": uci_har,
}


def load(name: str = "digits", root: str | os.PathLike[str] | None = None, **options: object) -> Dataset:
    """Load a data set into memory.

    Args:
        name: one of ``NAMES``.
        root: the folder of its files, or that folder's parent; by default the environment variable
            ``PLIANT_DATA``.
        options: what this data set takes besides, such as ``image_size`` of ``imagefolder``.

    Raises:
        ValueError: no data set has this name.
        DatasetNotFoundError: its files are nowhere to be found; the message says what to put where.
        CorruptDataError: a file is damaged.
        MissingExtraError: a package is missing; the message says what to install.
    """
    if name not in NAMES:
        raise ValueError(f"name must be one of {', '.join(sorted(NAMES))}, found {name!r}")
    return NAMES[name](root, **options)


def register(name: str, loader: Callable[..., Dataset]) -> None:
    """Add a data set of your own to the table.

    Args:
        name: not yet in the table.
        loader: called with the root (a folder or None) and the options of :func:`load`.

    Raises:
        ValueError: the name is taken.
    """
    if name in NAMES:
        raise ValueError(f"name must be a new one, found {name!r}, which is registered already")
    NAMES[name] = loader
