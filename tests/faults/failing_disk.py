"""A disk that fails on demand: operations on files under a folder raise, from the outside of all that does them."""

import os
import sys
from contextlib import contextmanager

_OPERATIONS = frozenset({"os.rename", "os.mkdir", "os.link", "os.truncate"})
_WRITES = os.O_WRONLY | os.O_RDWR
_active = []
_installed = []


@contextmanager
def failing(folder, error, *, after=0, times=None):
    """Make operations that write under a folder raise.

    Args:
        folder: and everything in it.
        error: number of the system's error.
        after: how many operations succeed first.
        times: how many fail; None: all.

    Yields:
        A list with one number: how many operations have been asked for.
    """
    if not _installed:
        sys.addaudithook(_hook)  # there is no way to remove one
        _installed.append(True)
    count = [0]
    _active.append((str(folder), error, after, times, count))
    try:
        yield count
    finally:
        _active.clear()


def _hook(event, args):
    for folder, error, after, times, count in _active:
        if not _writes(event, args) or not str(args[0]).startswith(folder):
            continue
        count[0] += 1
        if after < count[0] <= (after + times if times is not None else float("inf")):
            raise OSError(error, os.strerror(error), str(args[0]))


def _writes(event, args):
    return event in _OPERATIONS or (event == "open" and isinstance(args[0], str | os.PathLike) and args[2] & _WRITES)
