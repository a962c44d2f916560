"""How the ranks of a tensor train are chosen: one number, one for each bond, a budget, or a share of the energy."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pliant.compress.budgets.fill import fill
from pliant.compress.budgets.problem import Counted, Counts, Knob, Numbers, Problem, Term
from pliant.sets.weight_set import SetError
from pliant.spec import register
from pliant.tensor_train import admissible, entries, full_ranks, spectra


class TrainRanks(ABC):
    """From a tensor to the ranks of its train."""

    @abstractmethod
    def choose(self, tensor: Tensor, dense: int, near: Sequence[int] | None) -> tuple[int, ...]:
        """Return the rank of every bond, all admissible.

        Args:
            tensor: shape (n_1, ..., n_m).
            dense: entries of the weight, at most those of the tensor.
            near: ranks of an earlier point of the set, if there is one.
        """

    @abstractmethod
    def allows(self, ranks: Sequence[int], sizes: Sequence[int], dense: int) -> bool:
        """Tell whether trains of these ranks are in the set.

        Args:
            ranks: (r_1, ..., r_{m-1}).
            sizes: (n_1, ..., n_m).
            dense: entries of the weight.
        """

    @abstractmethod
    def most(self, sizes: Sequence[int], dense: int) -> int:
        """Return the largest number of entries of all cores.

        Args:
            sizes: (n_1, ..., n_m).
            dense: entries of the weight.
        """


@register
@dataclass(frozen=True)
class EqualRanks(TrainRanks):
    """One bound for all bonds.

    Args:
        rank: at least 1; no bond gets more than is admissible.

    Raises:
        SetError: if it is less.
    """

    rank: int

    def __post_init__(self) -> None:
        if type(self.rank) is not int or self.rank < 1:
            raise SetError(f"rank must be a count of at least 1, found {self.rank!r}")

    def choose(self, tensor: Tensor, dense: int, near: Sequence[int] | None) -> tuple[int, ...]:  # noqa: ARG002  (they are given)
        return admissible(tensor.shape, [self.rank] * (tensor.ndim - 1))

    def allows(self, ranks: Sequence[int], sizes: Sequence[int], dense: int) -> bool:  # noqa: ARG002  (one bound)
        return max(ranks, default=1) <= self.rank

    def most(self, sizes: Sequence[int], dense: int) -> int:  # noqa: ARG002  (as above)
        return entries(sizes, admissible(sizes, [self.rank] * (len(sizes) - 1)))


@register
@dataclass(frozen=True)
class BondRanks(TrainRanks):
    """One bound for each bond.

    Args:
        ranks: (r_1, ..., r_{m-1}), at least 1 each; no bond gets more than is admissible.

    Raises:
        SetError: if one is less.
    """

    ranks: tuple[int, ...]

    def __post_init__(self) -> None:
        if any(type(rank) is not int or rank < 1 for rank in self.ranks):
            raise SetError(f"ranks must be counts of at least 1, one for each bond, found {self.ranks!r}")

    def choose(self, tensor: Tensor, dense: int, near: Sequence[int] | None) -> tuple[int, ...]:  # noqa: ARG002  (they are given)
        return admissible(tensor.shape, self.ranks)

    def allows(self, ranks: Sequence[int], sizes: Sequence[int], dense: int) -> bool:  # noqa: ARG002  (as above)
        return all(rank <= bound for rank, bound in zip(ranks, self.ranks, strict=True))

    def most(self, sizes: Sequence[int], dense: int) -> int:  # noqa: ARG002  (as above)
        return entries(sizes, admissible(sizes, self.ranks))


@register
@dataclass(frozen=True)
class EntryBudget(TrainRanks):
    """Ranks within a number of entries, chosen for each tensor anew.

    From ranks of 1, again and again the bond is widened whose next singular value, squared, is largest for what it
    adds to the cores, until nothing fits any more. The set is the union of the trains of all ranks within the budget.

    Args:
        entries: of all cores together; an int is a count, a float in (0, 1] a share of the weight's entries.

    Raises:
        SetError: if it is neither.
    """

    entries: int | float
    counted: bool = field(init=False, repr=False)

    def __post_init__(self) -> None:
        count = type(self.entries) is int and self.entries >= 1
        if not count and not (isinstance(self.entries, float) and 0.0 < self.entries <= 1.0):
            raise SetError(
                f"entries must be a count of at least 1 or a share in (0, 1] of the weight's, found {self.entries!r}"
            )
        object.__setattr__(self, "counted", count)

    def choose(self, tensor: Tensor, dense: int, near: Sequence[int] | None) -> tuple[int, ...]:  # noqa: ARG002  (chosen anew)
        return self.within(tensor, self.limit(dense))

    def within(self, tensor: Tensor, limit: int) -> tuple[int, ...]:
        """Return ranks whose cores have at most `limit` entries."""
        knobs = [_knob(bond, values) for bond, values in enumerate(spectra(tensor))]
        problem = Problem(knobs, [_EntryTerm(tuple(tensor.shape))])
        least = problem.cost(problem.smallest)
        if least > limit:
            raise SetError(f"entries must allow {least:,.0f}, those of a train of ranks 1, found {limit:,}")
        return tuple(fill(problem, problem.smallest, limit))

    def allows(self, ranks: Sequence[int], sizes: Sequence[int], dense: int) -> bool:
        return entries(sizes, ranks) <= self.limit(dense)

    def limit(self, dense: int) -> int:
        """Return the budget as a count."""
        return self.entries if isinstance(self.entries, int) else math.floor(self.entries * dense)

    def most(self, sizes: Sequence[int], dense: int) -> int:
        return min(self.limit(dense), entries(sizes, full_ranks(sizes)))


@register
@dataclass(frozen=True)
class EnergyShare(TrainRanks):
    """The smallest ranks that keep a share of the squared norm; chosen once, an earlier point keeps its ranks.

    Every bond may lose an equal part of 1 - share, so that the error of the train, squared, is at most 1 - share of
    the squared norm of the tensor.

    Args:
        share: 0 < share <= 1.

    Raises:
        SetError: if it is not.
    """

    share: float

    def __post_init__(self) -> None:
        if not isinstance(self.share, float | int) or isinstance(self.share, bool) or not 0.0 < self.share <= 1.0:
            raise SetError(f"share must satisfy 0 < share <= 1, found {self.share!r}")

    def choose(self, tensor: Tensor, dense: int, near: Sequence[int] | None) -> tuple[int, ...]:  # noqa: ARG002  (see most)
        if near is not None:
            return tuple(near)
        allowed = (1.0 - self.share) / max(1, tensor.ndim - 1)
        return admissible(tensor.shape, [_rank_within(values, allowed) for values in spectra(tensor)])

    def allows(self, ranks: Sequence[int], sizes: Sequence[int], dense: int) -> bool:  # noqa: ARG002  (they are kept)
        return True

    def most(self, sizes: Sequence[int], dense: int) -> int:  # noqa: ARG002  (depends on the tensor alone)
        return entries(sizes, full_ranks(sizes))


@dataclass(frozen=True, eq=False)
class _EntryTerm(Term):
    """The entries of all cores, depending on the ranks; infinitely many where a rank is wider than can be used."""

    sizes: tuple[int, ...]

    @property
    def knobs(self) -> frozenset[int]:
        return frozenset(range(len(self.sizes) - 1))

    def cost(self, counts: Sequence[Counted]) -> float | Numbers | Counts:
        ranks: list[Counted] = [1, *counts, 1]
        total: Counted = 0
        wide: bool | NDArray[np.bool_] = False
        for size, (before, after) in zip(self.sizes, pairwise(ranks), strict=True):
            total = total + before * size * after
            wide = wide | (after > before * size) | (before > size * after)
        cost: Numbers = np.where(wide, np.inf, total)
        return cost


def _knob(bond: int, values: Tensor) -> Knob:
    """Return a bond as a knob: what is lost at rank r is the sum of the squares behind it."""
    squares: Numbers = values.double().square().cpu().numpy()
    tails = np.append(np.cumsum(squares[::-1])[::-1], 0.0)[1:]
    return Knob(str(bond), np.arange(1, len(squares) + 1), tails)


def _rank_within(values: Tensor, allowed: float) -> int:
    """Return the smallest rank whose lost share of the squares is allowed."""
    tails = values.double().square().flip(0).cumsum(0).flip(0)
    return max(1, int(torch.count_nonzero(tails > allowed * tails[0])))
