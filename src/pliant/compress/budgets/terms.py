"""What single tensors cost, depending on how many atoms of each knob stay."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from pliant.compress.budgets.problem import Counted, Counts, Numbers, Term
from pliant.regions.axes import Axes

Pays = bool | np.bool_ | NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Extent:
    """How long one dimension of a tensor is.

    Args:
        full: before the cut.
        lost: pairs (knob, table): table[n] positions are lost if n of its atoms stay, shape (atoms + 1,).
    """

    full: int
    lost: tuple[tuple[int, Counts], ...] = ()

    def of(self, counts: Sequence[Counted]) -> Counts | int:
        """Return the length."""
        length: Counts | int = self.full
        for knob, table in self.lost:
            length = length - table[counts[knob]]
        return length


@dataclass(frozen=True)
class Split:
    """How a layer can become two.

    Args:
        knob: that counts its rank.
        axes: how its weight is read, before the cut.
        reads: positions at which the first of the two is evaluated in one call of the model.
        outputs: positions that the second one writes.
    """

    knob: int
    axes: Axes
    reads: int
    outputs: int


@dataclass(frozen=True, eq=False)
class Weight:
    """A parameter as budgets see it.

    Args:
        name: qualified.
        extents: one per dimension.
        uses: multiplications with each entry in one call, by convolutions and linear layers.
        split: how its layer can become two, or None.
    """

    name: str
    extents: tuple[Extent, ...]
    uses: int = 0
    split: Split | None = None

    @cached_property
    def knobs(self) -> frozenset[int]:
        """Return the knobs that change it."""
        shape = {knob for extent in self.extents for knob, _ in extent.lost}
        return frozenset(shape if self.split is None else {*shape, self.split.knob})

    @property
    def whole(self) -> Weight:
        """Return the same weight, never split."""
        return replace(self, split=None)

    def entries(self, counts: Sequence[Counted]) -> Counts | int:
        """Return how many entries it has, undivided."""
        entries: Counts | int = 1
        for extent in self.extents:
            entries = entries * extent.of(counts)
        return entries


@dataclass(frozen=True, eq=False)
class WeightTerm(Term):
    """Parameters or multiply-accumulates of one weight.

    Args:
        weight: undivided, or two factors where that saves both.
        per_entry: cost of a parameter.
        per_use: cost of a multiplication.
    """

    weight: Weight
    per_entry: int
    per_use: int

    @property
    def knobs(self) -> frozenset[int]:
        return self.weight.knobs

    def cost(self, counts: Sequence[Counted]) -> float | Numbers | Counts:
        entries = self.weight.entries(counts)
        whole = self._weighed(entries, entries * self.weight.uses)
        if self.weight.split is None:
            return whole
        divided = self._weighed(*split_cost(self.weight, self.weight.split, counts))
        cheapest: Counts = np.where(pays(self.weight, self.weight.split, counts), divided, whole)
        return cheapest

    def _weighed(self, entries: Counted, macs: Counted) -> Counted:
        return entries * self.per_entry + macs * self.per_use


@dataclass(frozen=True, eq=False)
class LinearTerm(Term):
    """A cost in proportion to a count, such as the products of attention heads."""

    knob: int
    per_atom: float

    @property
    def knobs(self) -> frozenset[int]:
        return frozenset({self.knob})

    def cost(self, counts: Sequence[Counted]) -> float | Numbers | Counts:
        found: Numbers = np.multiply(self.per_atom, counts[self.knob], dtype=np.float64)
        return found


def split_cost(weight: Weight, split: Split, counts: Sequence[Counted]) -> tuple[Counted, Counted]:
    """Return entries and multiplications of the two factors of a weight."""
    first, second = split_entries(weight, split, counts)
    return first + second, first * split.reads + second * split.outputs


def split_entries(weight: Weight, split: Split, counts: Sequence[Counted]) -> tuple[Counted, Counted]:
    """Return the entries of the first factor and of the second."""
    groups, rows, columns = matrices(weight, split.axes, counts)
    rank: Counted = np.minimum(counts[split.knob], np.minimum(rows, columns))
    return rank * groups * columns, rank * groups * rows


def matrices(weight: Weight, axes: Axes, counts: Sequence[Counted]) -> tuple[Counted, Counted, Counted]:
    """Return how many matrices a weight is, their rows and their columns."""
    sizes = [extent.of(counts) for extent in weight.extents]
    groups = sizes[0] * axes.groups // weight.extents[0].full if axes.groups > 1 else 1
    rows = sizes[1] if axes.out else sizes[0] // groups
    rows = rows * sizes[-1] if axes.spatial else rows
    return groups, rows, weight.entries(counts) // (groups * rows)


def pays(weight: Weight, split: Split, counts: Sequence[Counted]) -> Pays:
    """Tell whether two factors have fewer entries than the weight, and fewer multiplications."""
    entries = weight.entries(counts)
    new_entries, new_macs = split_cost(weight, split, counts)
    return (new_entries < entries) & (new_macs < entries * weight.uses)
