"""imagefolder: images of your own, one folder a class."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from pliant.data.augment import RandomCrop, RandomFlip
from pliant.data.base import Dataset, Split
from pliant.data.errors import CorruptDataError
from pliant.data.images import decode_resized
from pliant.data.locate import candidates, not_found

if TYPE_CHECKING:
    import os
    from pathlib import Path

_NAME = "imagefolder"
_TEST_FOLDERS = ("test", "val")
_SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"})
_CROP_SHARE = 8  # an eighth of the image, as for CIFAR: 4 of 32 pixels


def imagefolder(root: str | os.PathLike[str] | None = None, *, image_size: int = 64) -> Dataset:
    """Load ``root/train/CLASS/*`` and ``root/test/CLASS/*`` (or ``root/val/CLASS/*``).

    Images become RGB; the shorter side is scaled to ``image_size``, then the centre is cut out. All of them
    live in memory: ``3 * image_size ** 2`` bytes each. Mean and std are those of the training split.

    Args:
        root: the folder that holds ``train`` and ``test``, or its parent if it is named ``imagefolder``.
        image_size: in pixels, at least 1.

    Raises:
        ValueError: the image size is out of its range.
        DatasetNotFoundError: there are no such folders.
        CorruptDataError: an image is damaged, a class is empty, or only the test split has it.
    """
    if image_size < 1:
        raise ValueError(f"image_size must be at least 1 pixel, found {image_size}")
    train_folder, test_folder = _find(root)
    classes = tuple(sorted(path.name for path in train_folder.iterdir() if path.is_dir()))
    _check_classes(train_folder, test_folder, classes)
    train = _split(train_folder, classes, image_size)
    mean, std = _statistics(train.images)
    shift = max(1, image_size // _CROP_SHARE)
    return Dataset(
        name=_NAME,
        train=train,
        test=_split(test_folder, classes, image_size),
        classes=classes,
        mean=mean,
        std=std,
        augmentation=(RandomCrop(padding=shift), RandomFlip()),
    )


def _find(root: str | os.PathLike[str] | None) -> tuple[Path, Path]:
    folders = candidates(_NAME, root)
    for folder in folders:
        tests = [folder / name for name in _TEST_FOLDERS if (folder / name).is_dir()]
        if tests and (folder / "train").is_dir():
            return folder / "train", tests[0]
    raise not_found(_NAME, folders, "train/CLASS/* and test/CLASS/* (or val/CLASS/*)")


def _check_classes(train: Path, test: Path, classes: tuple[str, ...]) -> None:
    if not classes:
        raise CorruptDataError(f"{train}: one folder a class is needed, found none")
    for path in sorted(test.iterdir()):
        if path.is_dir() and path.name not in classes:
            raise CorruptDataError(f"{path}: the class {path.name!r} is not in {train}")


def _split(folder: Path, classes: tuple[str, ...], size: int) -> Split:
    files = [(path, label) for label, name in enumerate(classes) for path in _files(folder / name)]
    images = np.empty((len(files), 3, size, size), dtype=np.uint8)
    for row, (path, _) in enumerate(files):
        images[row] = decode_resized(path, size=size)
    return Split(torch.from_numpy(images), torch.tensor([label for _, label in files]))


def _files(folder: Path) -> list[Path]:
    found = sorted(folder.iterdir()) if folder.is_dir() else []
    images = [path for path in found if path.suffix.lower() in _SUFFIXES]
    if not images:
        raise CorruptDataError(f"{folder}: at least one image is needed ({', '.join(sorted(_SUFFIXES))})")
    return images


def _statistics(images: torch.Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Exact moments from a histogram of each channel, without a floating-point copy of the images."""
    levels = torch.arange(256, dtype=torch.float64) / 255
    mean, std = [], []
    for channel in images.unbind(1):
        share = torch.bincount(channel.flatten(), minlength=256).double() / channel.numel()
        center = float(share @ levels)
        mean.append(center)
        std.append(max(float(share @ (levels - center).square()) ** 0.5, 1 / 255))
    return tuple(mean), tuple(std)
