"""A zip archive, as `torch.save` writes it, that carries its own checksum; `torch.load` reads it as any other."""

from __future__ import annotations

import hashlib
import io
import re
import struct
import zipfile
from typing import IO

_END = b"PK\x05\x06"  # of an archive: 22 bytes, of which the last two are the length of a comment
_END_SIZE = 22
_COMMENT = re.compile(rb"sha256:([0-9a-f]{64})")
_COMMENT_SIZE = 71
_CHUNK = 2**20


class SealError(ValueError):
    """An archive has no checksum, another one than it should, or entries that it cannot hold."""


def seal(archive: io.BytesIO) -> memoryview:
    """Add the SHA-256 of an archive to it, as the comment that zip files may end with.

    Args:
        archive: a zip archive without a comment; it is changed.

    Raises:
        SealError: it is none.
    """
    end = archive.getbuffer()[-_END_SIZE:]
    if bytes(end[: len(_END)]) != _END or bytes(end[-2:]) != b"\0\0":
        raise SealError("only a zip archive without a comment can be sealed")
    end[-2:] = struct.pack("<H", _COMMENT_SIZE)
    end.release()
    digest = hashlib.sha256(archive.getbuffer()).hexdigest()
    archive.seek(0, io.SEEK_END)
    archive.write(b"sha256:" + digest.encode())
    return archive.getbuffer()


def check_seal(file: IO[bytes]) -> None:
    """Check an archive without unpacking it: its checksum, and that its entries are stored and no larger than it.

    So it holds what was written, and reading it takes no more memory than the file has bytes. The checksum finds
    damage; it does not say who wrote the file.

    Raises:
        SealError: saying what is wrong.
    """
    size = file.seek(0, io.SEEK_END)
    file.seek(max(0, size - _COMMENT_SIZE))
    comment = _COMMENT.fullmatch(file.read())
    if comment is None:
        raise SealError("it does not end with a checksum: cut off, foreign, or of another schema")
    if _digest(file, size - _COMMENT_SIZE) != comment[1].decode():
        raise SealError("its checksum is another one than when it was written: it is damaged")
    _check_entries(file, size)
    file.seek(0)


def _digest(file: IO[bytes], size: int) -> str:
    file.seek(0)
    digest = hashlib.sha256()
    while size > 0:
        chunk = file.read(min(_CHUNK, size))
        digest.update(chunk)
        size -= len(chunk)
    return digest.hexdigest()


def _check_entries(file: IO[bytes], size: int) -> None:
    try:
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError, OSError, struct.error, EOFError) as error:
        raise SealError(f"it is no zip archive: {error}") from error
    packed = [entry.filename for entry in entries if entry.compress_type != zipfile.ZIP_STORED]
    if packed:
        raise SealError(f"its entry {packed[0]!r:.80} is compressed")
    if sum(entry.file_size for entry in entries) > size:
        raise SealError(f"its entries claim more than its {size:,} bytes")
