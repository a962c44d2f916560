"""UCI-HAR: 7,352 + 2,947 windows of a phone's motion as 561 features, six activities."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from pliant.data.base import Dataset, Split
from pliant.data.errors import CorruptDataError
from pliant.data.locate import candidates, not_found

if TYPE_CHECKING:
    import os

_NAME = "uci-har"
_FEATURES = 561
_CLASSES = ("walking", "walking upstairs", "walking downstairs", "sitting", "standing", "laying")


def uci_har(root: str | os.PathLike[str] | None = None) -> Dataset:
    """Load the features of Human Activity Recognition Using Smartphones from its four text files.

    The features are in [-1, 1] and are taken as they are. They stand as the channels of an image of one pixel.

    Args:
        root: the folder with X_train.txt, y_train.txt, X_test.txt and y_test.txt, themselves or in its folders train
            and test as published, or the parent of that folder; by default ``PLIANT_DATA``.

    Raises:
        DatasetNotFoundError: the four files are in none of the folders.
        CorruptDataError: a file is damaged.

    Reference:
        D. Anguita, A. Ghio, L. Oneto, X. Parra and J. Reyes-Ortiz, A public domain dataset for human activity
        recognition using smartphones (2013).
    """
    train, test = _find(root)
    return Dataset(
        name=_NAME,
        train=_split(*train),
        test=_split(*test),
        classes=_CLASSES,
        mean=(0.0,) * _FEATURES,
        std=(1.0,) * _FEATURES,
    )


def _find(root: str | os.PathLike[str] | None) -> tuple[tuple[Path, Path], tuple[Path, Path]]:
    folders = candidates(_NAME, root)
    for folder in folders:
        for train, test in ((folder, folder), (folder / "train", folder / "test")):
            found = (train / "X_train.txt", train / "y_train.txt"), (test / "X_test.txt", test / "y_test.txt")
            if all(path.is_file() for pair in found for path in pair):
                return found
    raise not_found(_NAME, folders, "X_train.txt, y_train.txt, X_test.txt and y_test.txt")


def _split(features_path: Path, labels_path: Path) -> Split:
    features, labels = _numbers(features_path, _FEATURES), _numbers(labels_path, 1)[:, 0]
    if len(features) != len(labels):
        raise CorruptDataError(f"{labels_path}: {len(labels)} labels for the {len(features)} rows of {features_path}")
    if not np.isin(labels, np.arange(1, len(_CLASSES) + 1)).all():
        raise CorruptDataError(f"{labels_path}: labels must be whole numbers from 1 to {len(_CLASSES)}")
    images = torch.from_numpy(features.astype(np.float32))[:, :, None, None]
    return Split(images, torch.from_numpy(labels.astype(np.int64) - 1))


def _numbers(path: Path, columns: int) -> np.ndarray:
    """Read finite numbers, a row a line.

    Raises:
        CorruptDataError: there are none, or the file holds something else.
    """
    try:
        lines = path.read_text(encoding="ascii").splitlines()
        table = np.loadtxt(lines, comments=None, ndmin=2) if lines else np.empty((0, columns))
    except ValueError as error:
        raise CorruptDataError(f"{path}: not a table of numbers ({error})") from error
    if not len(table) or table.shape[1] != columns or not np.isfinite(table).all():
        raise CorruptDataError(f"{path}: rows of {columns} finite numbers are needed, found shape {table.shape}")
    return table
