"""Image tables in parquet, as dataset hubs store them: ``{bytes, path}`` structs beside a label column."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from pliant.data.base import Split, is_label
from pliant.data.errors import CorruptDataError
from pliant.data.images import decode_exact
from pliant.data.optional import require

if TYPE_CHECKING:
    from pathlib import Path

_IMAGE_COLUMNS = ("img", "image")
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
            CorruptDataError: a file, a column, an image or a label is missing or damaged.
        """
        tables = [self._columns(path) for path in paths]
        total = sum(len(labels) for _, labels in tables)
        images = np.empty((total, 3, self.size, self.size), dtype=np.uint8)
        row = 0
        for path, (encoded, _) in zip(paths, tables, strict=True):
            for number, content in enumerate(encoded):
                images[row] = decode_exact(content, size=self.size, where=f"{path}, row {number}")
                row += 1
        return Split(torch.from_numpy(images), torch.tensor([x for _, labels in tables for x in labels]))

    def _columns(self, path: Path) -> tuple[list[bytes], list[int]]:
        arrow, parquet = require("pyarrow"), require("pyarrow.parquet")
        try:
            with parquet.ParquetFile(path) as file:
                present = set(file.schema_arrow.names)
                image = next((name for name in _IMAGE_COLUMNS if name in present), None)
                if image is None or self.label not in present:
                    wanted = f"{' or '.join(_IMAGE_COLUMNS)} and {self.label}"
                    raise CorruptDataError(f"{path}: columns {wanted} are needed, found {sorted(present)}")
                table = file.read([image, self.label])
        except (arrow.ArrowException, OSError) as error:
            raise CorruptDataError(f"{path}: not a readable parquet file ({error}); fetch it again") from error
        return _rows(path, table[image].to_pylist(), table[self.label].to_pylist())


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


def _rows(path: Path, images: list[object], labels: list[object]) -> tuple[list[bytes], list[int]]:
    encoded = [image.get("bytes") if isinstance(image, dict) else None for image in images]
    for number, (content, label) in enumerate(zip(encoded, labels, strict=True)):
        if not isinstance(content, bytes) or not is_label(label):
            raise CorruptDataError(f"{path}, row {number}: the image's bytes or a label are missing")
    return [x for x in encoded if isinstance(x, bytes)], [x for x in labels if is_label(x)]
