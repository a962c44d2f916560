"""Which positions of a tensor's dimension belong to which atom: regular patterns in five numbers, others as lists."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]


class Positions(ABC):
    """The positions of every atom along one dimension; no position belongs to two atoms."""

    @abstractmethod
    def of(self, atoms: Sequence[int]) -> Indices:
        """Return the positions of some atoms, ascending, shape (positions,)."""

    @abstractmethod
    def covers(self) -> Sequence[int]:
        """Return the atoms that have positions here, ascending."""

    @property
    @abstractmethod
    def total(self) -> int:
        """Return how many positions all atoms have together."""

    @property
    @abstractmethod
    def largest(self) -> int:
        """Return the largest position."""


@dataclass(frozen=True)
class Regular(Positions):
    """Atom first + a, 0 <= a < count, has the positions start + a step + b_1 s_1 + b_2 s_2 + ..., 0 <= b_i < n_i.

    >>> Regular(0, 2, 0, 4, ((3, 8), (4, 1))).of([1]).tolist()
    [4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23]

    Args:
        first: the first atom that has positions here.
        count: how many consecutive atoms have, at least 1.
        start: smallest position of the first atom.
        step: from one atom to the next.
        blocks: pairs (n_i, s_i); none of them if every atom has one position.
    """

    first: int
    count: int
    start: int = 0
    step: int = 1
    blocks: tuple[tuple[int, int], ...] = ()

    def of(self, atoms: Sequence[int]) -> Indices:
        index = np.asarray(atoms, dtype=np.int64) - self.first
        index = index[(index >= 0) & (index < self.count)]
        found = self.start + self.step * index
        for count, stride in self.blocks:
            found = (found[:, None] + stride * np.arange(count)).ravel()
        return np.sort(found)

    def covers(self) -> Sequence[int]:
        return range(self.first, self.first + self.count)

    @property
    def total(self) -> int:
        total = self.count
        for count, _ in self.blocks:
            total *= count
        return total

    @property
    def largest(self) -> int:
        return self.start + self.step * (self.count - 1) + sum((n - 1) * s for n, s in self.blocks)


@dataclass(frozen=True)
class Listed(Positions):
    """The positions of each atom one by one.

    Args:
        rows: one entry per atom of the group, ascending; empty where the atom has no position here.
    """

    rows: tuple[tuple[int, ...], ...]

    def of(self, atoms: Sequence[int]) -> Indices:
        found = [self.rows[atom] for atom in atoms if 0 <= atom < len(self.rows)]
        return np.sort(np.fromiter(chain.from_iterable(found), dtype=np.int64))

    def covers(self) -> Sequence[int]:
        return [atom for atom, row in enumerate(self.rows) if row]

    @property
    def total(self) -> int:
        return sum(map(len, self.rows))

    @property
    def largest(self) -> int:
        return max(chain.from_iterable(self.rows), default=-1)


def positions_of(atoms: Indices, places: Indices) -> Positions:
    """Return the shortest description of a set of positions.

    Args:
        atoms: the atom of each position, shape (positions,), at least one.
        places: the positions, ascending, the same shape.
    """
    order = np.argsort(atoms, kind="stable")
    owners, starts = np.unique(atoms[order], return_index=True)
    rows = np.split(places[order], starts[1:])
    regular = _regular(owners, rows)
    if regular is not None:
        return regular
    listed: list[tuple[int, ...]] = [()] * (int(owners[-1]) + 1)
    for owner, row in zip(owners.tolist(), rows, strict=True):
        listed[owner] = tuple(row.tolist())
    return Listed(tuple(listed))


def _regular(owners: Indices, rows: list[Indices]) -> Regular | None:
    if len({len(row) for row in rows}) > 1 or owners[-1] - owners[0] + 1 != len(owners):
        return None
    table = np.stack(rows)
    step = int(table[1, 0] - table[0, 0]) if len(rows) > 1 else 1
    blocks = _blocks(table[0])
    expected = table[0, 0] + step * np.arange(len(rows))
    if blocks is None or step < 1 or not (table - table[:, :1] == table[:1] - table[0, 0]).all():
        return None
    if not (table[:, 0] == expected).all():
        return None
    return Regular(int(owners[0]), len(owners), int(table[0, 0]), step, blocks)


def _blocks(row: Indices) -> tuple[tuple[int, int], ...] | None:
    if len(row) == 1:
        return ()
    gaps = np.diff(row)
    jumps = np.flatnonzero(gaps != gaps[0])
    run = int(jumps[0]) + 1 if len(jumps) else len(row)
    if len(row) % run:
        return None
    starts, inner = row[::run], row[:run] - row[0]
    if not (row.reshape(-1, run) == starts[:, None] + inner).all():
        return None
    within = ((run, int(gaps[0])),) if run > 1 else ()
    if len(starts) == 1:
        return within
    outer = _blocks(starts) if run > 1 else None
    return None if outer is None else (*outer, *within)
