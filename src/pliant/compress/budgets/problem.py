"""The choice that a budget asks for, without models: knobs with losses, and a cost that is a sum of small terms."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.int64]
Numbers = NDArray[np.float64]
Counted = int | Counts  # one count, or many to be tried


@dataclass(frozen=True, eq=False)
class Knob:
    """Atoms that leave in one order: the channels of a group, the rank of a layer.

    Args:
        name: of the group or layer.
        levels: counts that may stay, ascending; the last is all of them.
        losses: what is lost at each level, shape (levels,), not ascending, 0 at the last.
    """

    name: str
    levels: Counts
    losses: Numbers


class Term(ABC):
    """A part of the cost that depends on few knobs."""

    @property
    @abstractmethod
    def knobs(self) -> frozenset[int]:
        """Return the indices of the knobs it depends on."""

    @abstractmethod
    def cost(self, counts: Sequence[Counted]) -> float | Numbers | Counts:
        """Return the cost.

        Args:
            counts: for every knob of the problem how many atoms stay; at most one of them is an array, and then so is
                the result.
        """


@dataclass(frozen=True, eq=False)
class Problem:
    """Choose counts of small loss whose cost stays within a limit.

    Args:
        knobs: what can be chosen.
        terms: their costs add up, together with `fixed`.
        fixed: the cost of everything else.
        shares: removed fraction -> counts, as the compressor itself shares out a fraction.
    """

    knobs: Sequence[Knob]
    terms: Sequence[Term]
    fixed: float = 0
    shares: Callable[[float], Sequence[int]] | None = field(default=None, repr=False)

    @property
    def largest(self) -> list[int]:
        """Return all atoms."""
        return [int(knob.levels[-1]) for knob in self.knobs]

    @property
    def smallest(self) -> list[int]:
        """Return the lowest level of every knob."""
        return [int(knob.levels[0]) for knob in self.knobs]

    def cost(self, counts: Sequence[int]) -> float:
        """Return the cost of a choice."""
        return self.fixed + sum(float(term.cost(counts)) for term in self.terms)

    def loss(self, counts: Sequence[int]) -> float:
        """Return the loss of a choice."""
        pairs = zip(self.knobs, counts, strict=True)
        return sum(float(knob.losses[np.searchsorted(knob.levels, count)]) for knob, count in pairs)

    def costs_along(self, counts: Sequence[int], index: int, tried: Counts) -> Numbers:
        """Return what the terms of one knob cost at several of its counts, shape of `tried`."""
        varied: list[Counted] = list(counts)
        varied[index] = tried
        total = np.zeros(tried.shape)
        for term in self._terms_of[index]:
            total += term.cost(varied)
        return total

    @cached_property
    def _terms_of(self) -> list[list[Term]]:
        found: list[list[Term]] = [[] for _ in self.knobs]
        for term in self.terms:
            for index in term.knobs:
                found[index].append(term)
        return found

    @cached_property
    def neighbours(self) -> list[set[int]]:
        """Return for every knob those whose costs it changes, itself included."""
        return [{index}.union(*(term.knobs for term in terms)) for index, terms in enumerate(self._terms_of)]
