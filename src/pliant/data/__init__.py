"""Data sets in memory as uint8, augmented and normalised on the device."""

from pliant.data.augment import Augmentation, RandomCrop, RandomFlip, RandomRotation
from pliant.data.base import Dataset, Split
from pliant.data.batches import Batches
from pliant.data.errors import CorruptDataError, DatasetNotFoundError, MissingExtraError, UnsafePickleError
from pliant.data.registry import NAMES, load, register

__all__ = [
    "NAMES",
    "Augmentation",
    "Batches",
    "CorruptDataError",
    "Dataset",
    "DatasetNotFoundError",
    "MissingExtraError",
    "RandomCrop",
    "RandomFlip",
    "RandomRotation",
    "Split",
    "UnsafePickleError",
    "load",
    "register",
]
