"""CIFAR-100: 50,000 + 10,000 colour images of 32x32 pixels, a hundred classes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pliant.data.augment import RandomCrop, RandomFlip
from pliant.data.base import Dataset
from pliant.data.cifar import CifarFiles

if TYPE_CHECKING:
    import os

_FILES = CifarFiles(
    name="cifar100",
    folder="cifar-100-python",
    train=("train",),
    test=("test",),
    pickle_label="fine_labels",
    parquet_label="fine_label",
)
_CLASSES = tuple(
    """
    apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can
    castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin
    elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard
    lobster man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear
    pickup_truck pine_tree plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea seal
    shark shrew skunk skyscraper snail snake spider squirrel streetcar sunflower sweet_pepper table tank
    telephone television tiger tractor train trout tulip turtle wardrobe whale willow_tree wolf woman worm
    """.split()  # noqa: SIM905 - a list literal would take a hundred lines
)


def cifar100(root: str | os.PathLike[str] | None = None) -> Dataset:
    """Load CIFAR-100 with its fine labels, from its python pickles or from parquet files.

    ``RandomRotation(degrees=15)`` is a common addition to its augmentation.

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
        name="cifar100",
        train=train,
        test=test,
        classes=_CLASSES,
        mean=(0.5071, 0.4865, 0.4409),
        std=(0.2673, 0.2564, 0.2762),
        augmentation=(RandomCrop(padding=4), RandomFlip()),
    )
