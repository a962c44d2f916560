"""Labels: one number per slice of every parameter, and which of them must live and die together."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from pliant.structure.channels.fields import first_along, packed, pairs_of, varying
from pliant.structure.channels.graph import Role
from pliant.structure.channels.positions import Indices


@dataclass(frozen=True)
class Source:
    """One dimension of one tensor: label start + i is its slice i.

    Args:
        tensor: qualified name; empty for a tensor that code makes.
        dim: the dimension.
        start: label of slice 0.
        size: number of slices.
    """

    tensor: str
    dim: int
    start: int
    size: int


@dataclass
class Labels:
    """What a run of the model found out about its labels; grows while the model runs.

    Args:
        sources: where labels come from, by ascending label.
        roles: index of a source -> what it is to its channels; the first thing that is found stays.
        counts: module, number that it keeps, and the labels that the number counts.
    """

    sources: list[Source] = field(default_factory=list)
    roles: dict[int, Role] = field(default_factory=dict)
    counts: list[tuple[str, str, Indices]] = field(default_factory=list)
    _count: int = 1
    _pairs: list[Indices] = field(default_factory=list)
    _splits: list[Tensor] = field(default_factory=list)
    _halves: list[Tensor] = field(default_factory=list)
    _frozen: list[tuple[Indices, str]] = field(default_factory=list)
    _notes: list[tuple[Indices, str]] = field(default_factory=list)

    @property
    def count(self) -> int:
        """Return the smallest number that is no label."""
        return self._count

    def fresh(self, tensor: str, dim: int, size: int) -> Tensor:
        """Return labels for the slices of one dimension of a tensor, shape (size,)."""
        start = self._count
        self.sources.append(Source(tensor, dim, start, size))
        self._count += size
        return torch.arange(start, start + size)

    def unify(self, first: Tensor, second: Tensor, reason: str) -> None:
        """Let labels at the same place of two fields live and die together; what meets no label must stay."""
        pairs = pairs_of(first, second)
        fixed = (pairs == 0).any(dim=1)
        self.freeze(pairs[fixed].sum(dim=1), reason)
        if not bool(fixed.all()):
            self._pairs.append(pairs[~fixed].numpy())

    def freeze(self, labels: Tensor, reason: str, *, first: bool = False) -> None:
        """Let labels stay for good; of several reasons the first one found is told, or one that comes `first`."""
        found = torch.unique(packed(labels))
        if bool(found.any()):
            self._frozen.insert(0 if first else len(self._frozen), (found[found > 0].numpy(), reason))

    def merge(self, labels: Tensor, dims: Collection[int], reason: str) -> Tensor:
        """Unify a field along some dimensions; return it, constant along them.

        What is the same everywhere afterwards must stay.
        """
        merged = first_along(labels, dims)
        self.unify(labels, merged, reason)
        if varying(labels) <= frozenset(dims):
            self.freeze(labels, reason)
        found = torch.unique(packed(merged))
        self._notes.append((found[found > 0].numpy(), reason))
        return merged

    def split(self, block: Tensor) -> None:
        """Demand that what is removed of one dimension, seen as the dimensions of `block`, be whole slices of it."""
        self._splits.append(block)

    def halve(self, parts: Tensor) -> None:
        """Demand that equal parts of a dimension lose equally many positions; shape (parts, positions)."""
        self._halves.append(parts)

    def mark(self, role: Role, labels: Tensor) -> None:
        """Say what the tensors are to which some labels belong."""
        found = torch.unique(packed(labels)).numpy()
        starts = np.asarray([source.start for source in self.sources])
        for index in np.unique(np.searchsorted(starts, found[found > 0], side="right") - 1).tolist():
            known = self.roles.get(index)
            if known is None or (role is Role.OUTPUT and known is Role.INPUT):
                self.roles[index] = role

    def classes(self) -> Indices:
        """Return the smallest label of the class of each label, shape (count,); 0 for labels that must stay."""
        while True:
            classes = self.connected()
            for fixed in self.reasons(classes):
                classes[classes == fixed] = 0
            before = len(self._pairs), len(self._frozen)
            table = torch.from_numpy(classes)
            for block in self._splits:
                self._demand_one_dimension(table[block])
            for parts in self._halves:
                self._demand_balance(table[parts])
            if before == (len(self._pairs), len(self._frozen)):
                return classes

    def connected(self) -> Indices:
        """Return the smallest label of the class of each label, shape (count,), whether it may go or not."""
        return components(self._count, self._pairs)

    def reasons(self, connected: Indices) -> dict[int, str]:
        """Return why the classes that must stay must stay."""
        return _by_class(self._frozen, connected)

    def notes(self, connected: Indices) -> dict[int, str]:
        """Return why classes hold many labels, where something is known."""
        return _by_class(self._notes, connected)

    def _demand_one_dimension(self, block: Tensor) -> None:
        if any(bool((block == _only(block, dim)).all()) for dim in range(block.ndim)):
            return
        choices = [pairs_of(block, _only(block, dim)).numpy() for dim in range(block.ndim)]
        # The dimension that leaves most atoms; the last of equals, for groups come before channels.
        left = [_count_classes(block, pairs) for pairs in choices]
        best = max(range(block.ndim), key=lambda dim: (left[dim], dim))
        self.unify(block, _only(block, best), "its channels are split into a fixed number")

    def _demand_balance(self, parts: Tensor) -> None:
        ordered = parts.sort(dim=1).values
        if not bool((ordered == ordered[:1]).all()):
            self.unify(parts, parts[:1], "its channels are split into equal parts, one of which is fixed")
            found = torch.unique(parts).numpy()
            self._notes.append((found[found > 0], "its channels are split into equal parts, which ties them all"))


def components(count: int, pairs: list[Indices]) -> Indices:
    """Return the smallest member of the connected component of each of `count` nodes.

    >>> components(5, [np.array([[1, 3], [3, 4]])]).tolist()
    [0, 1, 2, 1, 1]
    """
    parent = np.arange(count)
    edges = np.concatenate([*pairs, np.empty((0, 2), dtype=np.int64)])
    while len(edges):
        roots = np.sort(parent[edges], axis=1)
        edges = edges[roots[:, 0] != roots[:, 1]]
        roots = roots[roots[:, 0] != roots[:, 1]]
        np.minimum.at(parent, roots[:, 1], roots[:, 0])
        while not (parent == parent[parent]).all():
            parent = parent[parent]
    return parent


def _by_class(texts: list[tuple[Indices, str]], classes: Indices) -> dict[int, str]:
    found: dict[int, str] = {}
    for labels, text in texts:
        for root in np.unique(classes[labels]).tolist():
            found.setdefault(root, text)
    return found


def _only(block: Tensor, dim: int) -> Tensor:
    """Return the field with all dimensions but one reduced to their first entry."""
    for other in range(block.ndim):
        if other != dim:
            block = block.narrow(other, 0, 1)
    return block


def _count_classes(block: Tensor, pairs: Indices) -> int:
    merged = components(int(block.max()) + 1, [pairs])
    return len(np.unique(merged[block.numpy()]))
