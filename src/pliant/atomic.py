"""Files that are either the old ones or the new ones, never half of each, and on the disk when a call returns."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

_LEFTOVER = re.compile(r".+\.\d+\.(tmp|old)")


def write_bytes(path: Path, content: bytes | memoryview, *, keep: Path | None = None) -> None:
    """Write a file so that a crash at any moment leaves the old content or the new one.

    Args:
        path: of the file.
        content: of the file.
        keep: the name under which the old file stays; what had that name goes. Where the file system has no hard
            links, a crash can leave the old file under this name alone.
    """
    with replacing([path]) as (temporary,):
        temporary.write_bytes(content)
        if keep is not None and path.exists():
            _flush(temporary)
            _name_also(path, keep)


def write_text(path: Path, text: str) -> None:
    """Write a text file in the same way, in UTF-8."""
    write_bytes(path, text.encode())


def append_text(path: Path, text: str) -> None:
    """Add text at the end of a file, in UTF-8; what could not be added as a whole is taken back.

    Only a crash can leave a part of the text at the end.
    """
    rest = memoryview(text.encode())
    with path.open("ab", buffering=0) as file:
        before = file.seek(0, os.SEEK_END)
        try:
            while rest:
                rest = rest[file.write(rest) :]
            os.fsync(file.fileno())
        except OSError:
            with suppress(OSError):
                file.truncate(before)
            raise


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
    for folder in {path.parent for path in paths}:
        _flush_folder(folder)


def is_leftover(path: Path) -> bool:
    """Tell whether a name is one of those under which a crash leaves half a file.

    >>> [is_leftover(Path(name)) for name in ("run.json.4711.tmp", "run.json", "my.tmp")]
    [True, False, False]
    """
    return _LEFTOVER.fullmatch(path.name) is not None


def remove_leftovers(folder: Path) -> None:
    """Remove what processes that crashed have left of their files; nobody else may be writing into the folder."""
    for path in folder.iterdir():
        if is_leftover(path) and not path.is_dir():
            path.unlink(missing_ok=True)


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


def _name_also(path: Path, other: Path) -> None:
    link = _beside(other, "old")
    try:
        link.unlink(missing_ok=True)
        os.link(path, link)
    except OSError:
        path.replace(other)
    else:
        link.replace(other)
        link.unlink(missing_ok=True)  # renaming does nothing where both are names of one file, as after a crash


def _beside(path: Path, kind: str) -> Path:
    return path.with_name(f"{path.name}.{os.getpid()}.{kind}")


def _flush(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _flush_folder(folder: Path) -> None:
    """Put the names on the disk too, where the system can."""
    with suppress(OSError):  # not every system opens or flushes a folder
        number = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)
