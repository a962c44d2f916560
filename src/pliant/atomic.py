"""Files that are either the old ones or the new ones, never half of each."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file so that a crash at any moment leaves the old content or the new one."""
    with replacing([path]) as (temporary,):
        temporary.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    """Write a text file in the same way, in UTF-8."""
    write_bytes(path, text.encode())


@contextmanager
def replacing(paths: Sequence[Path]) -> Iterator[list[Path]]:
    """Give names to write to, which become `paths` when the block ends well; after an error nothing has happened.

    Everything is on the disk before the first file is replaced, and an error while replacing puts the old files back.
    Only a crash between two renames can leave new files beside old ones; with a single path there is no such moment.

    Args:
        paths: files of one folder, which exists.
    """
    written = [_beside(path, "tmp") for path in paths]
    saved = [_beside(path, "old") for path in paths]
    try:
        yield written
        for file in written:
            _flush(file)
        _replace_all(written, paths, saved)
    finally:
        for file in [*written, *saved]:
            file.unlink(missing_ok=True)


def _replace_all(written: Sequence[Path], paths: Sequence[Path], saved: Sequence[Path]) -> None:
    existed = [path.exists() for path in paths]
    for path, old in list(zip(paths, saved, strict=True))[:-1]:  # behind the last rename nothing can fail any more
        with suppress(OSError):  # no such file, or a file system without links
            os.link(path, old)
    replaced = 0
    try:
        for new, path in zip(written, paths, strict=True):
            new.replace(path)
            replaced += 1
    except BaseException:
        for path, old, there in list(zip(paths, saved, existed, strict=True))[:replaced]:
            if old.exists():
                old.replace(path)
            elif not there:
                path.unlink()
        raise


def _beside(path: Path, kind: str) -> Path:
    return path.with_name(f"{path.name}.{os.getpid()}.{kind}")


def _flush(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())
