"""Image tables in parquet, as dataset hubs store them: ``{bytes, path}`` structs beside a label column."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from pliant.data.base import Split, is_label
from pliant.data.errors import CorruptDataError
from pliant.data.images import decode_exact
from pliant.data.optional import require

if TYPE_CHECKING:
    from pathlib import Path

_IMAGE_COLUMNS = ("img", "image")
_BATCH = 64  # rows in memory at a time, besides the decoded ones
_MOST_GROWTH = 100  # by unpacking; images, compressed already, do not grow
_ALWAYS_FINE = 2**26  # bytes after unpacking
_SHARD = re.compile(r"(?P<part>[a-z]+)-(?P<number>\d+)-of-(?P<count>\d+)\.parquet")


@dataclass(frozen=True, kw_only=True)
class ParquetImages:
    """The tables of one data set.

    Args:
        label: the name of the label column.
        size: height and width of every image, in pixels.
    """

    label: str
    size: int

    def read(self, paths: list[Path]) -> Split:
        """Decode the files of one split, in the given order.

        Raises:
            CorruptDataError: a file, a column, an image or a label is missing or damaged, or claims more memory than
                a file of its size can need.
        """
        images, labels = [], []
        for path in paths:
            for number, (content, label) in enumerate(self._rows(path)):
                images.append(decode_exact(content, size=self.size, where=f"{path}, row {number}"))
                labels.append(label)
        empty = np.empty((0, 3, self.size, self.size), np.uint8)
        return Split(torch.from_numpy(np.stack(images) if images else empty), torch.tensor(labels, dtype=torch.int64))

    def _rows(self, path: Path) -> Iterator[tuple[bytes, int]]:
        arrow, parquet = require("pyarrow"), require("pyarrow.parquet")
        try:
            with parquet.ParquetFile(path) as file:
                image = self._image_column(path, file.schema_arrow)
                _check_claims(path, file.metadata)
                done = 0
                for batch in file.iter_batches(_BATCH, columns=[image, self.label]):
                    yield from _pairs(path, done, batch[image].to_pylist(), batch[self.label].to_pylist())
                    done += batch.num_rows
        except (arrow.ArrowException, OSError, UnicodeDecodeError) as error:
            raise CorruptDataError(f"{path}: not a readable parquet file ({error}); fetch it again") from error

    def _image_column(self, path: Path, schema: Any) -> str:  # noqa: ANN401  (pyarrow has no types)
        types = require("pyarrow").types
        name = next((name for name in _IMAGE_COLUMNS if name in schema.names), None)
        if name is None or self.label not in schema.names:
            wanted = f"{' or '.join(_IMAGE_COLUMNS)} and {self.label}"
            raise CorruptDataError(f"{path}: columns {wanted} are needed, found {sorted(set(schema.names))!r:.200}")
        image, label = schema.field(name).type, schema.field(self.label).type
        parts = {field.name: field.type for field in image} if types.is_struct(image) else {}
        if not types.is_binary(parts.get("bytes", label)) or not types.is_integer(label):
            found = f"{image!s:.200} and {label!s:.200}"
            raise CorruptDataError(f"{path}: images must be structs with binary bytes, labels integers, found {found}")
        return name


def shards(folder: Path, part: str) -> list[Path]:
    """The files ``PART-00000-of-0000N.parquet`` of a folder, in order; empty when there are none.

    Raises:
        CorruptDataError: some of the N files are there and others are not.
    """
    found = {path.name: path for path in sorted(folder.glob(f"{part}-*.parquet"))}
    matches = [match for match in map(_SHARD.fullmatch, found) if match]
    if not matches:
        return []
    digits, count = len(matches[0]["count"]), matches[0]["count"]
    paths = []
    for number in range(int(count)):
        name = f"{part}-{number:0{digits}d}-of-{count}.parquet"
        if name not in found:
            raise CorruptDataError(f"{folder}: of the {int(count)} files of {part}, {name} is missing")
        paths.append(found[name])
    return paths


def _check_claims(path: Path, metadata: Any) -> None:  # noqa: ANN401
    size = path.stat().st_size
    # Not the columns' own numbers: asking for a column that is damaged makes Arrow abort the process.
    unpacked = sum(metadata.row_group(number).total_byte_size for number in range(metadata.num_row_groups))
    if metadata.num_rows > size or unpacked > max(size * _MOST_GROWTH, _ALWAYS_FINE):
        claims = f"{metadata.num_rows:,} rows and {unpacked:,} bytes"
        raise CorruptDataError(f"{path}: {claims} cannot come out of {size:,} bytes; fetch it again")


def _pairs(path: Path, first: int, images: list[object], labels: list[object]) -> Iterator[tuple[bytes, int]]:
    for number, (image, label) in enumerate(zip(images, labels, strict=True), start=first):
        content = image.get("bytes") if isinstance(image, dict) else None
        if not isinstance(content, bytes) or not is_label(label):
            raise CorruptDataError(f"{path}, row {number}: the image's bytes or a label are missing")
        yield content, label
