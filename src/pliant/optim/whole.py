"""Where the whole of sharded points is looked at, to find their vertices."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from pliant.optim.exchange import Exchange
from pliant.optim.oracle import MEMORY, Oracle
from pliant.optim.point import Point
from pliant.sharding import is_sharded, part_of, sharded_like


class Whole(ABC):
    """Where the whole of sharded tensors is looked at."""

    @abstractmethod
    def vertices(self, momentum: Sequence[Sequence[Tensor]], usable: Tensor | None) -> list[list[Tensor]]:
        """Return this process's part of the vertices, tensors of each point. Collective.

        Args:
            momentum: this process's part, of each tensor of each point.
            usable: whether memories may change; None: they may.
        """


class Form(NamedTuple):
    """What a memory of an oracle looks like."""

    point: int
    key: str
    shape: tuple[int, ...]
    dtype: torch.dtype


@dataclass(frozen=True, eq=False)
class Owners(Whole):
    """Every point has one process that computes its vertex, so that the work is spread.

    Momentum travels to the owners and slices of vertices travel back, each in one collective for all points. What the
    oracles remember is sent to all, so that the state is that of one process and any process can save it.
    """

    points: Sequence[Point]
    oracles: Sequence[Oracle]
    exchange: Exchange
    _forms: list[list[list[Form]]] = field(default_factory=list, init=False)

    def vertices(self, momentum: Sequence[Sequence[Tensor]], usable: Tensor | None) -> list[list[Tensor]]:
        spans = spans_of(momentum)
        wholes = self.exchange.to_owners([m for part in momentum for m in part])
        dense: dict[int, Tensor] = {}
        for oracle, span in zip(self.oracles, spans, strict=True):
            if span.start in wholes:
                found = oracle.vertices([wholes.pop(i).unsqueeze(0) for i in span], usable)
                dense |= {i: vertex.dense()[0] for i, vertex in zip(span, found, strict=True)}
        self._share_memories()
        slices = self.exchange.to_all(dense)
        return [[slices[i] for i in span] for span in spans]

    def _share_memories(self) -> None:
        if not self._forms:  # once, since regions and shapes do not change without a new batch
            self._forms.append(self._gather_forms())
        for owner, forms in enumerate(self._forms[0]):
            tensors = [self._remembered(form) for form in forms]
            if tensors:
                flat = torch.cat([_as_bytes(x) for x in tensors]).to(self.exchange.device)
                dist.broadcast(flat, group=self.exchange.group, group_src=owner)
                if owner != self.exchange.rank:
                    _fill(tensors, flat)

    def _gather_forms(self) -> list[list[Form]]:
        own = [
            Form(n, key, tuple(x.shape), x.dtype)
            for n, span in enumerate(spans_of([point.params for point in self.points]))
            if self.exchange.pieces[span.start].owner == self.exchange.rank
            for key, x in self.points[n].states[0].get(MEMORY, {}).items()
        ]
        every: list[list[Form]] = [[]] * self.exchange.size
        dist.all_gather_object(every, own, group=self.exchange.group)
        return every

    def _remembered(self, form: Form) -> Tensor:
        """Return a memory's tensor, made where this process has none of that form."""
        point = self.points[form.point]
        memory: dict[str, Tensor] = point.states[0].setdefault(MEMORY, {})
        old = memory.get(form.key)
        if old is None or old.shape != form.shape or old.dtype is not form.dtype:
            memory[form.key] = torch.zeros(form.shape, dtype=form.dtype, device=point.params[0].device)
        return memory[form.key]


@dataclass(frozen=True, eq=False)
class Everyone(Whole):
    """Every process computes every vertex: for any placement, any region, and points of which a part rests."""

    points: Sequence[Point]
    oracles: Sequence[Oracle]

    def vertices(self, momentum: Sequence[Sequence[Tensor]], usable: Tensor | None) -> list[list[Tensor]]:
        found = []
        for point, oracle, parts in zip(self.points, self.oracles, momentum, strict=True):
            pairs = zip(parts, point.params, strict=True)
            wholes = [sharded_like(m, p).full_tensor() if is_sharded(p) else m for m, p in pairs]
            vertices = oracle.vertices([m.unsqueeze(0) for m in wholes], usable)
            dense = zip((vertex.dense()[0] for vertex in vertices), point.params, strict=True)
            found.append([part_of(v, p) if is_sharded(p) else v for v, p in dense])
        return found


def spans_of(points: Sequence[Sequence[Any]]) -> list[range]:
    """Return the numbers that the tensors of each point have where all are counted one after the other."""
    starts = [0, *accumulate(len(tensors) for tensors in points)]
    return [range(a, b) for a, b in pairwise(starts)]


def _as_bytes(x: Tensor) -> Tensor:
    return x.contiguous().reshape(-1).view(torch.uint8)


def _fill(tensors: Sequence[Tensor], flat: Tensor) -> None:
    parts = flat.split([x.numel() * x.element_size() for x in tensors])
    for x, new in zip(tensors, parts, strict=True):
        x.copy_(new.clone().view(x.dtype).reshape(x.shape))  # cloned: bytes must be aligned
