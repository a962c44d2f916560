"""Where the files of a data set are, and what to say when they are nowhere."""

from __future__ import annotations

import os
from pathlib import Path

from pliant.data.errors import DatasetNotFoundError

ENVIRONMENT_VARIABLE = "PLIANT_DATA"


def candidates(name: str, root: str | os.PathLike[str] | None, *, system: tuple[str, ...] = ()) -> list[Path]:
    """The folders to search, in order.

    Args:
        name: of the data set; ``base/name`` is searched after ``base`` itself.
        root: searched alone when given; otherwise the folder that the environment variable ``PLIANT_DATA``
            names and then ``system`` are.
        system: folders where a distribution's packages put this data set.
    """
    given = root if root is not None else os.environ.get(ENVIRONMENT_VARIABLE) or None
    folders = [] if given is None else [Path(given), Path(given) / name]
    return folders if root is not None else [*folders, *(Path(folder) for folder in system)]


def not_found(name: str, folders: list[Path], files: str) -> DatasetNotFoundError:
    """The error that says which folders were searched and which files to put where."""
    searched = ", ".join(str(folder) for folder in folders) or f"none (no root, no {ENVIRONMENT_VARIABLE})"
    where = f"ROOT/{name}, with --data-root ROOT (in Python root=ROOT) or {ENVIRONMENT_VARIABLE}=ROOT"
    return DatasetNotFoundError(f"{name}: data not found. Searched: {searched}. Put {files} into {where}")
