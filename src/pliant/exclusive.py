"""One process at a time in a folder or file; the system lets go when the process ends, whatever the reason."""

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
    """Another process is at work in a folder or file."""


@contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Keep other processes that ask in the same way out of a folder or file.

    A file system that cannot lock it is logged, and nobody is kept out. A file that is replaced is another one.

    Args:
        path: of what exists.

    Raises:
        InUseError: another process is in it.
    """
    if sys.platform == "win32":
        yield
        return
    number = os.open(path, os.O_RDONLY)
    try:
        _lock(number, path)
        yield
    finally:
        os.close(number)


def _lock(number: int, path: Path) -> None:
    try:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise InUseError(f"{path} is in use: another process is at work in it; wait for it or stop it") from None
    except OSError as error:
        _LOG.info("%s cannot be locked: %s", path, error)
