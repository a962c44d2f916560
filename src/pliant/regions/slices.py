"""Slices: atoms that own one or more slices of a tensor, in any order: heads, flattened channels, blocks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import groupby

import torch
from torch import Tensor

from pliant.regions.axes import Axes
from pliant.regions.gauges import Gauge
from pliant.regions.vertex import Product, Vertex
from pliant.regions.views import Filters, Memory, Shape, Split, View, above_underflow, exact_maximiser, ratio
from pliant.spec import register

Runs = tuple[tuple[int, int, int, int], ...]


@register
@dataclass(frozen=True)
class Slices(View):
    """Magnitudes are the Euclidean norms of atoms, each of which owns some slices of one dimension.

    Slice p along `dim` belongs to atom o_p, and the magnitude of atom i is the root of the sum of norm_2(x_p)^2 over
    all p with o_p = i. `Slices.of` writes the runs.

    Args:
        dim: the dimension, batch dimensions not counted.
        atoms: how many there are; one that owns nothing here has magnitude 0.
        runs: the owners o_0, o_1, ... of all slices as (first, step, count, each): first, first + step, ..., `count` of
            them, each one `each` times.
        batch: number of leading batch dimensions.
    """

    dim: int
    atoms: int
    runs: Runs
    batch: int = 0
    arity: int = field(default=1, init=False)
    scales: tuple[float, ...] = field(default=(1.0,), init=False)

    def __post_init__(self) -> None:
        if min(self.dim, self.batch) < 0:
            raise ValueError(f"dim and batch must be at least 0, found {self.dim!r} and {self.batch!r}")
        if not self.runs or any(min(count, each) < 1 for _, _, count, each in self.runs):
            raise ValueError(f"runs must be (first, step, count, each), the last two at least 1, found {self.runs}")
        ends = [end for first, step, count, _ in self.runs for end in (first, first + step * (count - 1))]
        if min(ends) < 0 or max(ends) >= self.atoms:
            raise ValueError(f"runs must hold atoms from 0 to {self.atoms - 1}, found {min(ends)} to {max(ends)}")

    @staticmethod
    def of(dim: int, owners: Sequence[int], atoms: int, batch: int = 0) -> Slices:
        """Return the view in which slice p belongs to atom owners[p].

        >>> Slices.of(0, [0, 0, 1, 1, 0, 0, 1, 1], 2).runs
        ((0, 1, 2, 2), (0, 1, 2, 2))
        """
        return Slices(dim, atoms, _runs_of(owners), batch)

    @property
    def owners(self) -> list[int]:
        """The atom of every slice."""
        return [first + step * i for first, step, count, each in self.runs for i in range(count) for _ in range(each)]

    def count(self, *shapes: Shape) -> int:
        (shape,) = shapes
        size = sum(count * each for _, _, count, each in self.runs)
        if self.dim >= len(shape) or shape[self.dim] != size or math.prod(shape) == 0:
            raise ValueError(f"a weight needs {size} slices along dimension {self.dim}, found shape {tuple(shape)}")
        return self.atoms

    def magnitudes(self, *xs: Tensor) -> Tensor:
        (x,) = xs
        across = [dim for dim in range(self.batch, x.ndim) if dim != self.batch + self.dim]
        norms = torch.linalg.vector_norm(x, dim=across) if across else x.abs()
        table = _table(self.runs, self.atoms, x.device)
        nothing = norms.new_zeros((*norms.shape[:-1], 1))
        owned = torch.cat([norms, nothing], dim=-1).index_select(-1, table.flatten())
        return torch.linalg.vector_norm(owned.unflatten(-1, table.shape), dim=-1)

    def split(self, *xs: Tensor, leading: int) -> Split:  # noqa: ARG002  (all magnitudes are at hand)
        (x,) = xs
        norms = above_underflow(self.magnitudes(x))
        return Split(norms, lambda a: (self.scaled(x, ratio(a, norms)),))

    def maximiser(self, gauge: Gauge, *xs: Tensor, memory: Memory) -> tuple[Vertex, ...]:  # noqa: ARG002  (exact)
        return exact_maximiser(self, gauge, xs)

    def scaled(self, x: Tensor, factors: Tensor) -> Product:
        """Return the tensor with all slices of every atom multiplied by its factor, (*batch, atoms)."""
        each = factors.index_select(-1, _owners(self.runs, x.device))
        after = x.ndim - self.batch - self.dim - 1
        shape = (*each.shape[:-1], *[1] * self.dim, each.shape[-1], *[1] * after)
        return Product(x, each.reshape(shape), self.batch)

    def stacked(self) -> View:
        return replace(self, batch=self.batch + 1)


def channels_along(dim: int, owners: Sequence[int], atoms: int, batch: int = 0) -> Filters | Slices:
    """Return the simplest view in which slice p of a dimension belongs to atom owners[p].

    >>> channels_along(1, [0, 1, 2], 3) == Filters(Axes(out=1))
    True
    """
    if list(owners) == list(range(atoms)):
        return Filters(Axes(out=dim), batch)
    return Slices.of(dim, owners, atoms, batch)


def _runs_of(owners: Sequence[int]) -> Runs:
    blocks = [(atom, len(list(same))) for atom, same in groupby(owners)]
    runs, start = [], 0
    while start < len(blocks):
        first, each = blocks[start]
        step = blocks[start + 1][0] - first if start + 1 < len(blocks) else 0
        end = start + 1
        while end < len(blocks) and blocks[end] == (first + step * (end - start), each):
            end += 1
        runs.append((first, step if end > start + 1 else 0, end - start, each))
        start = end
    return tuple(runs)


# Indices are made once for each pattern and device: a copy to the device at every step would hold up the host.
@lru_cache(maxsize=4096)
def _owners(runs: Runs, device: torch.device) -> Tensor:
    """Return the atom of every slice, shape (slices,)."""
    with torch.inference_mode(mode=False):
        parts = [first + step * torch.arange(count).repeat_interleave(each) for first, step, count, each in runs]
        return torch.cat(parts).to(device, non_blocking=True)


@lru_cache(maxsize=4096)
def _table(runs: Runs, atoms: int, device: torch.device) -> Tensor:
    """Return the slices of every atom, shape (atoms, largest number), filled up with the number of slices.

    Gathering sums in a fixed order; adding by index, on a GPU, does not.
    """
    with torch.inference_mode(mode=False):
        owners = _owners(runs, torch.device("cpu"))
        counts = torch.zeros(atoms, dtype=torch.long).index_add_(0, owners, torch.ones_like(owners))
        order = owners.argsort(stable=True)
        places = torch.arange(len(owners)) - (counts.cumsum(0) - counts)[owners[order]]
        table = torch.full((atoms, int(counts.max())), len(owners))
        table[owners[order], places] = order
        return table.to(device, non_blocking=True)
