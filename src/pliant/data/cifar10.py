"""CIFAR-10: 50,000 + 10,000 colour images of 32x32 pixels, ten classes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pliant.data.augment import RandomCrop, RandomFlip
from pliant.data.base import Dataset
from pliant.data.cifar import CifarFiles

if TYPE_CHECKING:
    import os

_FILES = CifarFiles(
    name="cifar10",
    folder="cifar-10-batches-py",
    train=tuple(f"data_batch_{number}" for number in range(1, 6)),
    test=("test_batch",),
    pickle_label="labels",
    parquet_label="label",
)
_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def cifar10(root: str | os.PathLike[str] | None = None) -> Dataset:
    """Load CIFAR-10 from its python pickles or from parquet files.

    Args:
        root: the folder with the files, or its parent; by default ``PLIANT_DATA``.

    Raises:
        DatasetNotFoundError: neither layout is in any of the folders.
        CorruptDataError: a file is damaged; an unsafe pickle is refused by :class:`UnsafePickleError`.

    Reference:
        A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images (2009), chapter 3.
    """
    train, test = _FILES.load(root)
    return Dataset(
        name="cifar10",
        train=train,
        test=test,
        classes=_CLASSES,
        mean=(0.4913, 0.4821, 0.4465),
        std=(0.2452, 0.2428, 0.2606),
        augmentation=(RandomCrop(padding=4), RandomFlip()),
    )
