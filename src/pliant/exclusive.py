"""One process at a time in a folder; the system lets go when the process ends, whatever the reason."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

if sys.platform != "win32":  # where nothing of the kind is tried
    import fcntl

_LOG = logging.getLogger(__name__)


class InUseError(ValueError):
    """Another process is at work in a folder."""


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Keep other processes that ask in the same way out of a folder.

    A file system that cannot lock folders is logged, and nobody is kept out.

    Args:
        folder: which exists.

    Raises:
        InUseError: another process is in it.
    """
    if sys.platform == "win32":
        yield
        return
    number = os.open(folder, os.O_RDONLY)
    try:
        _lock(number, folder)
        yield
    finally:
        os.close(number)


def _lock(number: int, folder: Path) -> None:
    try:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise InUseError(f"{folder} is in use: another process is at work in it; wait for it or stop it") from None
    except OSError as error:
        _LOG.info("%s cannot be locked: %s", folder, error)
