"""What a data set is: two splits of uint8 images, or of features, in memory and what is needed to train on them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeGuard

import torch
from torch import Tensor

if TYPE_CHECKING:
    from pliant.data.augment import Augmentation

_IMAGE_DIMS = 4
_LARGEST_LABEL = 2**31 - 1


@dataclass(frozen=True, eq=False)
class Split:
    """Labelled images, or vectors of features, which are images of one pixel with a channel for every feature.

    Args:
        images: uint8, ``(N, channels, height, width)``; or features, float32, ``(N, features, 1, 1)``.
        labels: int64, ``(N,)``.
    """

    images: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        if self.images.ndim != _IMAGE_DIMS or not (self.images.dtype == torch.uint8 or self.holds_features):
            found = f"{self.images.dtype} of shape {tuple(self.images.shape)}"
            raise ValueError(
                "images must be uint8 of shape (N, channels, height, width), or features, float32 of shape "
                f"(N, features, 1, 1), found {found}"
            )
        if self.labels.dtype != torch.int64 or self.labels.shape != self.images.shape[:1]:
            found = f"{self.labels.dtype} of shape {tuple(self.labels.shape)}"
            raise ValueError(f"labels must be int64 of shape ({len(self.images)},), found {found}")

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def holds_features(self) -> bool:
        """Whether these are features, which are taken as they are, not pixels from 0 to 255."""
        return self.images.dtype == torch.float32 and self.images.shape[2:] == (1, 1)

    def subset(self, indices: Tensor) -> Split:
        """The images at the given positions, in that order."""
        return Split(self.images.index_select(0, indices), self.labels.index_select(0, indices))

    def holdout(self, fraction: float, seed: int = 0) -> tuple[Split, Split]:
        """Set a class-stratified part aside, to tune on without touching the test set.

        Args:
            fraction: the share that is held out, in (0, 1); ``round(fraction * N)`` images.
            seed: of the choice.

        Returns:
            What stays for training and what is held out, each in the order of this split.

        Raises:
            ValueError: the fraction leaves one of the two parts empty.
        """
        count = round(fraction * len(self)) if 0 < fraction < 1 else 0
        if not 0 < count < len(self):
            found = f"found {fraction} of {len(self)} images"
            raise ValueError(f"fraction must lie in (0, 1) and leave both parts at least one image, {found}")
        held = stratified_mask(self.labels, count, seed=seed)
        return self.subset((~held).nonzero().flatten()), self.subset(held.nonzero().flatten())


@dataclass(frozen=True, eq=False, kw_only=True)
class Dataset:
    """A data set, decoded and in memory.

    Args:
        name: as in the table of data sets.
        train: the training split.
        test: the test split.
        classes: the name of every label.
        mean: of each channel, of pixels scaled to [0, 1], or of features as they are.
        std: of each channel, likewise.
        augmentation: what training usually applies, in this order.
    """

    name: str
    train: Split
    test: Split
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    augmentation: tuple[Augmentation, ...] = ()

    def __post_init__(self) -> None:
        if self.train.images.shape[1:] != self.test.images.shape[1:]:
            found = f"{tuple(self.train.images.shape[1:])} and {tuple(self.test.images.shape[1:])}"
            raise ValueError(f"{self.name}: train and test images must have one shape, found {found}")
        if not len(self.mean) == len(self.std) == self.in_channels:
            found = f"{len(self.mean)} and {len(self.std)}"
            raise ValueError(f"{self.name}: mean and std need {self.in_channels} values each, found {found}")
        for part, split in (("train", self.train), ("test", self.test)):
            _check_labels(f"{self.name}, {part} split", split.labels, len(self.classes))

    @property
    def num_classes(self) -> int:
        """How many labels there are."""
        return len(self.classes)

    @property
    def in_channels(self) -> int:
        """1 for grey images, 3 for colour."""
        return self.train.images.shape[1]

    @property
    def image_size(self) -> int:
        """The images' height, in pixels."""
        return self.train.images.shape[2]


def stratified_mask(labels: Tensor, count: int, *, seed: int) -> Tensor:
    """Choose ``count`` positions so that every class gives its share, to within one.

    Shares that are not whole numbers are rounded by largest remainder, ties to the smaller label.

    Args:
        labels: non-negative int64, ``(N,)``.
        count: how many positions to choose.
        seed: of the choice.

    Returns:
        A boolean mask, ``(N,)``.
    """
    sizes = torch.bincount(labels)
    exact = sizes.double() * count / len(labels)
    quota = exact.floor().long()
    by_remainder = (exact - quota).argsort(descending=True, stable=True)
    quota[by_remainder[: count - int(quota.sum())]] += 1
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    order = order[labels[order].argsort(stable=True)]
    rank = torch.arange(len(labels)) - (sizes.cumsum(0) - sizes)[labels[order]]
    mask = torch.zeros(len(labels), dtype=torch.bool)
    mask[order] = rank < quota[labels[order]]
    return mask


def is_label(value: object) -> TypeGuard[int]:
    """Whether a value read from a file can be a label: a non-negative integer of sensible size."""
    return isinstance(value, int) and 0 <= value <= _LARGEST_LABEL


def _check_labels(where: str, labels: Tensor, num_classes: int) -> None:
    if len(labels) == 0:
        raise ValueError(f"{where}: at least one image is needed, found none")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= num_classes:
        raise ValueError(f"{where}: labels must lie in [0, {num_classes - 1}], found [{low}, {high}]")
