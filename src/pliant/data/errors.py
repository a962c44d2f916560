"""The errors that data sets raise: what is missing, what is damaged, what is unsafe."""

from __future__ import annotations


class DatasetNotFoundError(FileNotFoundError):
    """The files of a data set are in none of the searched folders."""


class CorruptDataError(ValueError):
    """A file is damaged, truncated or not of the format that its name promises."""


class UnsafePickleError(CorruptDataError):
    """A pickle asks for something other than plain containers and numeric arrays."""


class MissingExtraError(ImportError):
    """An optional package is needed and not installed."""
