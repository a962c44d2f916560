"""What CIFAR-10 and CIFAR-100 share: two file layouts of 32x32 colour images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from pliant.data.base import Split, is_label
from pliant.data.errors import CorruptDataError
from pliant.data.locate import candidates, not_found
from pliant.data.parquet import ParquetImages, shards
from pliant.data.safe_pickle import read_pickle

if TYPE_CHECKING:
    import os
    from pathlib import Path

_SIZE = 32
_SHAPE = (3, _SIZE, _SIZE)
_PARQUET_FOLDERS = ("", "data", "plain_text")


@dataclass(frozen=True, kw_only=True)
class CifarFiles:
    """The names by which one of the two data sets is stored.

    Args:
        name: of the data set.
        folder: of the python pickles.
        train: the pickles of the training split, in order.
        test: the pickles of the test split.
        pickle_label: the key of the labels in the pickles.
        parquet_label: the column of the labels in the parquet files.
    """

    name: str
    folder: str
    train: tuple[str, ...]
    test: tuple[str, ...]
    pickle_label: str
    parquet_label: str

    def load(self, root: str | os.PathLike[str] | None) -> tuple[Split, Split]:
        """Find and decode both splits.

        Raises:
            DatasetNotFoundError: neither layout is in any of the folders.
            CorruptDataError: a file is damaged.
        """
        folders = candidates(self.name, root)
        for folder in folders:
            found = self._pickles(folder) or self._parquet(folder)
            if found:
                return found
        files = f"{self.folder}/{{{','.join((*self.train, *self.test))}}} (python version)"
        tables = "train-00000-of-00001.parquet and test-00000-of-00001.parquet"
        raise not_found(self.name, folders, f"{files} or {tables}")

    def _pickles(self, folder: Path) -> tuple[Split, Split] | None:
        for place in (folder / self.folder, folder):
            train, test = ([place / file for file in files] for files in (self.train, self.test))
            if all(path.is_file() for path in (*train, *test)):
                return self._join(train), self._join(test)
        return None

    def _parquet(self, folder: Path) -> tuple[Split, Split] | None:
        table = ParquetImages(label=self.parquet_label, size=_SIZE)
        for place in (folder / name for name in _PARQUET_FOLDERS):
            train, test = shards(place, "train"), shards(place, "test")
            if train and test:
                return table.read(train), table.read(test)
        return None

    def _join(self, paths: list[Path]) -> Split:
        parts = [_read(path, self.pickle_label) for path in paths]
        images = np.concatenate([images for images, _ in parts])
        labels = np.concatenate([labels for _, labels in parts])
        return Split(torch.from_numpy(images), torch.from_numpy(labels))


def _read(path: Path, label: str) -> tuple[np.ndarray, np.ndarray]:
    entries = read_pickle(path)
    images, labels = _entry(entries, "data"), _entry(entries, label)
    if not isinstance(images, np.ndarray) or images.dtype != np.uint8 or not isinstance(labels, list):
        raise CorruptDataError(f"{path}: an array 'data' of uint8 and a list {label!r} are needed")
    if images.shape != (len(labels), int(np.prod(_SHAPE))) or not all(map(is_label, labels)):
        found = f"shape {images.shape} and {len(labels)} labels"
        raise CorruptDataError(f"{path}: 3072 values an image and one integer label are needed, found {found}")
    return images.reshape(-1, *_SHAPE), np.array(labels, dtype=np.int64)


def _entry(entries: dict[object, object], key: str) -> object:
    """Files of Python 2 have bytes for keys, files of Python 3 have strings."""
    return entries.get(key.encode(), entries.get(key))
