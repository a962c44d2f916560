"""Sharded tensors on their way to the process that works with the whole of them, and back."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from pliant.sharding import is_sharded

Shapes = list[tuple[int, ...]]


@dataclass(frozen=True)
class Piece:
    """A tensor that the processes of a group hold in slices, cut as `torch.chunk` cuts.

    Args:
        shape: of the whole.
        dim: along which it is cut.
        owner: the process, by its number in the group, that works with the whole.
    """

    shape: tuple[int, ...]
    dim: int
    owner: int

    def slice_of(self, rank: int, size: int) -> tuple[int, int]:
        """Return where the slice of one of `size` processes starts, and how long it is; the last may have none."""
        length = self.shape[self.dim]
        step = -(-length // size)
        start = min(rank * step, length)
        return start, min(step, length - start)

    def shape_of(self, rank: int, size: int) -> tuple[int, ...]:
        """Return the shape of the slice of one of `size` processes."""
        return (*self.shape[: self.dim], self.slice_of(rank, size)[1], *self.shape[self.dim + 1 :])


@dataclass(frozen=True, eq=False)
class Exchange:
    """Brings every tensor to its owner whole, and slices of what the owner made of it back to all.

    Each way is one collective for all tensors together, in which a process sends and receives about one of `size` parts
    of their entries. The tensors are of one dtype, and all processes of the group must call, in the same order.

    Args:
        group: the processes.
        pieces: the tensors.
        like: a tensor of their dtype on their device.
        device: where the group can send from.
    """

    group: dist.ProcessGroup
    pieces: Sequence[Piece]
    like: Tensor
    device: torch.device

    @property
    def rank(self) -> int:
        """The number of this process in the group."""
        return dist.get_rank(self.group)

    @property
    def size(self) -> int:
        """The number of processes."""
        return dist.get_world_size(self.group)

    def owned_by(self, rank: int) -> list[int]:
        """Return the numbers of the tensors that a process works with."""
        return [i for i, piece in enumerate(self.pieces) if piece.owner == rank]

    def to_owners(self, slices: Sequence[Tensor]) -> dict[int, Tensor]:
        """Return the whole of every tensor that this process owns, by number.

        Args:
            slices: this process's slice of every tensor.
        """
        mine = self.owned_by(self.rank)
        sent = [[slices[i] for i in self.owned_by(rank)] for rank in range(self.size)]
        got = self._swap(sent, lambda rank: [self.pieces[i].shape_of(rank, self.size) for i in mine])
        parts = {i: [got[rank][k] for rank in range(self.size)] for k, i in enumerate(mine)}
        return {i: torch.cat(part, dim=self.pieces[i].dim) for i, part in parts.items()}

    def to_all(self, wholes: Mapping[int, Tensor]) -> list[Tensor]:
        """Return this process's slice of every tensor.

        Args:
            wholes: the tensors that this process owns, by number.
        """
        mine = self.owned_by(self.rank)
        sent = [[self._cut(wholes[i], self.pieces[i], rank) for i in mine] for rank in range(self.size)]
        got = self._swap(sent, self._shapes_from)
        slices = {i: x for rank in range(self.size) for i, x in zip(self.owned_by(rank), got[rank], strict=True)}
        return [slices[i] for i in range(len(self.pieces))]

    def _shapes_from(self, owner: int) -> Shapes:
        return [self.pieces[i].shape_of(self.rank, self.size) for i in self.owned_by(owner)]

    def _cut(self, x: Tensor, piece: Piece, rank: int) -> Tensor:
        return x.narrow(piece.dim, *piece.slice_of(rank, self.size))

    def _swap(self, sent: Sequence[Sequence[Tensor]], shapes_from: Callable[[int], Shapes]) -> list[list[Tensor]]:
        """Send the r-th tensors to process r; return the tensors, of these shapes, that came from each process."""
        shapes = [shapes_from(rank) for rank in range(self.size)]
        counts = [sum(map(math.prod, each)) for each in shapes]
        buffer = torch.cat([self.like.new_empty(0), *(x.reshape(-1) for each in sent for x in each)]).to(self.device)
        got = torch.empty(sum(counts), dtype=self.like.dtype, device=self.device)
        splits = [sum(x.numel() for x in each) for each in sent]
        dist.all_to_all_single(got, buffer, counts, splits, group=self.group)
        return [_unpack(x, each) for x, each in zip(got.to(self.like.device).split(counts), shapes, strict=True)]


def _unpack(flat: Tensor, shapes: Shapes) -> list[Tensor]:
    parts = flat.split([math.prod(shape) for shape in shapes])
    return [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]


@dataclass(frozen=True)
class Cut:
    """The processes that tensors are cut over.

    Args:
        group: the processes.
        device: the kind of device that the group can send from.
    """

    group: dist.ProcessGroup
    device: str


def cut_of(tensors: Sequence[Tensor]) -> Cut | None:
    """Return how tensors are cut: all over the same processes, each along one dimension; None: not like that."""
    cuts = [_cut(x) for x in tensors]
    return cuts[0] if all(cut == cuts[0] for cut in cuts) else None


def exchange_over(cut: Cut, points: Sequence[Sequence[Tensor]], costs: Sequence[float], dtype: torch.dtype) -> Exchange:
    """Return an exchange for tensors that are cut so, those of a point with one owner.

    Args:
        cut: of all the tensors.
        points: their tensors.
        costs: about how long the work on each point takes; it is spread evenly.
        dtype: of what travels.
    """
    owners = share_out(costs, dist.get_world_size(cut.group))
    pairs = zip(points, owners, strict=True)
    pieces = [Piece(tuple(x.shape), _dim(x), owner) for point, owner in pairs for x in point]
    like = torch.empty(0, dtype=dtype, device=points[0][0].device)
    return Exchange(cut.group, pieces, like, torch.device(cut.device))


def first_entry(x: Tensor) -> int:
    """Return the number of a part's first entry in the whole, where the part is a run of entries; elsewhere 0."""
    cut = _cut(x)
    if cut is None or _dim(x) > 0:
        return 0
    piece = Piece(tuple(x.shape), 0, 0)
    start, _ = piece.slice_of(dist.get_rank(cut.group), dist.get_world_size(cut.group))
    return start * math.prod(x.shape[1:])


def _cut(x: Tensor) -> Cut | None:
    if not is_sharded(x):
        return None
    from torch.distributed.tensor import Shard  # noqa: PLC0415

    mesh = x.device_mesh
    cuts = [i for i, placement in enumerate(x.placements) if not placement.is_replicate()]
    simple = len(cuts) == 1 and type(x.placements[cuts[0]]) is Shard
    return Cut(mesh.get_group(cuts[0]), mesh.device_type) if simple else None


def _dim(x: Tensor) -> int:
    from torch.distributed.tensor import Shard  # noqa: PLC0415

    return next(place.dim for place in x.placements if isinstance(place, Shard)) if is_sharded(x) else 0


def share_out(costs: Sequence[float], size: int) -> list[int]:
    """Return which of `size` processes does each piece of work: the dearest first, each to the one with least so far.

    >>> share_out([3.0, 1.0, 2.0, 2.0], 2)
    [0, 0, 1, 1]
    """
    load, owners = [0.0] * size, [0] * len(costs)
    for i in sorted(range(len(costs)), key=lambda i: -costs[i]):
        owners[i] = min(range(size), key=load.__getitem__)
        load[owners[i]] += costs[i]
    return owners
