"""The table of data sets, from a name to what loads it, and data sets of the user's own by import path."""

from __future__ import annotations

import inspect
import os
from typing import TYPE_CHECKING

from pliant.data.base import Dataset
from pliant.data.cifar10 import cifar10
from pliant.data.cifar100 import cifar100
from pliant.data.digits import digits
from pliant.data.errors import DatasetNotFoundError
from pliant.data.fashion_mnist import fashion_mnist
from pliant.data.imagefolder import imagefolder
from pliant.data.locate import ENVIRONMENT_VARIABLE
from pliant.data.uci_har import uci_har
from pliant.own import called, imported, needs

if TYPE_CHECKING:
    from collections.abc import Callable

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
        name: one of ``NAMES``, or ``"package.module:function"`` for any importable function that returns a
            :class:`Dataset`; it is called with ``root``, if it takes that and there is one, and all of ``options``.
        root: the folder of its files, or that folder's parent; by default the environment variable
            ``PLIANT_DATA``.
        options: what this data set takes besides, such as ``image_size`` of ``imagefolder``.

    Raises:
        ValueError: no data set has this name, an option it does not take, a function that raises or gives no
            data set.
        DatasetNotFoundError: its files are nowhere to be found; the message says what to put where.
        CorruptDataError: a file is damaged.
        MissingExtraError: a package is missing; the message says what to install.
    """
    if name in NAMES:
        return _registered(name, root, options)
    if ":" not in name:
        known = ", ".join(sorted(NAMES))
        raise ValueError(f"name must be one of {known}, or 'package.module:function', found {name!r}")
    return _own(name, root, options)


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


def _registered(name: str, root: str | os.PathLike[str] | None, options: dict[str, object]) -> Dataset:
    try:
        inspect.signature(NAMES[name]).bind(root, **options)
    except TypeError as error:
        raise ValueError(f"{name}: these options do not fit: {error}") from error
    return NAMES[name](root, **options)


def _own(name: str, root: str | os.PathLike[str] | None, options: dict[str, object]) -> Dataset:
    function = imported(name)
    asked = {} if root is None else {"root": root}
    around = os.environ.get(ENVIRONMENT_VARIABLE)
    if "root" in needs(function) and not (asked or around):
        raise DatasetNotFoundError(
            f"{name}: takes the folder of its files as root: give --data-root FOLDER (in Python root=FOLDER), or set "
            f"{ENVIRONMENT_VARIABLE}"
        )
    try:
        dataset = called(name, function, {"root": around} if around else {}, asked | options)
    except ValueError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            raise DatasetNotFoundError(str(error)) from error
        raise
    if not isinstance(dataset, Dataset):
        raise ValueError(
            f"{name}: the function must return a pliant.data.Dataset, found {type(dataset).__name__}; make one: "
            "Dataset(name=..., train=Split(images, labels), test=Split(...), classes=..., mean=..., std=...)"
        )
    return dataset
