"""Grid: seconds at pairs of sizes, linear in between."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np

from pliant.compress.budgets.problem import Counted, Counts, Numbers


@dataclass(frozen=True)
class Grid:
    """Seconds at pairs of sizes, linear in between, constant outside.

    Args:
        rows: sizes, ascending.
        columns: sizes, ascending.
        seconds: for each of the rows one number per column.

    Raises:
        ValueError: if the sizes do not ascend, or the numbers are not as many, finite and positive.
    """

    rows: tuple[int, ...]
    columns: tuple[int, ...]
    seconds: tuple[tuple[float, ...], ...]

    def __post_init__(self) -> None:
        for sizes in (self.rows, self.columns):
            if not sizes or sizes[0] < 1 or any(a >= b for a, b in pairwise(sizes)):
                raise ValueError(f"the sizes of a grid must ascend from at least 1, found {sizes}")
        if len(self.seconds) != len(self.rows) or any(len(row) != len(self.columns) for row in self.seconds):
            raise ValueError(f"a grid must have {len(self.rows)} rows of {len(self.columns)} seconds, found others")
        if not all(math.isfinite(value) and value >= 0 for row in self.seconds for value in row):
            raise ValueError("the seconds of a grid must be finite and not negative")

    def at(self, row: Counted, column: Counted) -> Numbers:
        """Return the seconds at sizes, of which at most one is an array; larger sizes never take less."""
        up, down, weight = _place(self.rows, row)
        left, right, share = _place(self.columns, column)
        table = self._rising
        above = table[up, left] * (1 - share) + table[up, right] * share
        below = table[down, left] * (1 - share) + table[down, right] * share
        found: Numbers = above * (1 - weight) + below * weight
        return found

    @cached_property
    def _rising(self) -> Numbers:
        """Return the table without the dips that noise leaves."""
        return np.maximum.accumulate(np.maximum.accumulate(np.array(self.seconds), axis=0), axis=1)


def _place(sizes: Sequence[int], wanted: Counted) -> tuple[Counts, Counts, Numbers]:
    """Return the places below and above a size, and how far it is between them."""
    place = np.interp(wanted, sizes, np.arange(len(sizes)))
    low = np.floor(place).astype(np.int64)
    return low, np.minimum(low + 1, len(sizes) - 1), np.asarray(place - low)
