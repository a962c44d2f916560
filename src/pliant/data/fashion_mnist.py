"""Fashion-MNIST: 60,000 + 10,000 grey images of 28x28 pixels, ten kinds of clothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from pliant.data.augment import RandomCrop, RandomFlip
from pliant.data.base import Dataset, Split
from pliant.data.errors import CorruptDataError
from pliant.data.idx import read_idx
from pliant.data.locate import candidates, not_found

if TYPE_CHECKING:
    import os
    from pathlib import Path

_NAME = "fashion-mnist"
_SYSTEM = ("/usr/share/datasets/fashion-mnist",)  # the Debian package dataset-fashion-mnist
_FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
_CLASSES = (
    "T-shirt/top",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
)


def fashion_mnist(root: str | os.PathLike[str] | None = None) -> Dataset:
    """Load Fashion-MNIST from its four IDX files, gzipped or not.

    Args:
        root: the folder with the files, or its parent; by default ``PLIANT_DATA``, then the folder of the
            Debian package ``dataset-fashion-mnist``.

    Raises:
        DatasetNotFoundError: the four files are in none of the folders.
        CorruptDataError: a file is damaged.

    Reference:
        H. Xiao, K. Rasul and R. Vollgraf, Fashion-MNIST (2017), arXiv:1708.07747.
    """
    train_images, train_labels, test_images, test_labels = _find(root)
    return Dataset(
        name=_NAME,
        train=_split(train_images, train_labels),
        test=_split(test_images, test_labels),
        classes=_CLASSES,
        mean=(0.2860,),
        std=(0.3530,),
        augmentation=(RandomCrop(padding=2), RandomFlip()),
    )


def _find(root: str | os.PathLike[str] | None) -> list[Path]:
    folders = candidates(_NAME, root, system=_SYSTEM)
    for folder in folders:
        versions = [[folder / file, folder / f"{file}.gz"] for file in _FILES]
        found = [path for pair in versions for path in [p for p in pair if p.is_file()][:1]]
        if len(found) == len(_FILES):
            return found
    raise not_found(_NAME, folders, f"{', '.join(_FILES)} (each plain or with .gz; Debian: dataset-fashion-mnist)")


def _split(images_path: Path, labels_path: Path) -> Split:
    images, labels = read_idx(images_path, dims=3), read_idx(labels_path, dims=1)
    if len(images) != len(labels):
        raise CorruptDataError(f"{labels_path}: {len(labels)} labels for the {len(images)} of {images_path}")
    return Split(torch.from_numpy(images.copy())[:, None], torch.from_numpy(labels.astype(np.int64)))
