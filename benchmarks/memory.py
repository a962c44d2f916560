"""How many bytes an optimizer keeps, and how many it needs for the moment of a step."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.optim import Optimizer
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchmarks import tables
from benchmarks.contestants import ADAMW, LITERALS, SGD, Contestant, Entry, constrained, variants
from benchmarks.section import Bench, Section
from benchmarks.tables import Column, Row
from benchmarks.workloads import NETS, Drift


class Allocations(TorchDispatchMode):
    """Counts the bytes of tensors that operators return: in all, the largest, and the most alive at one time.

    What an operator allocates and frees inside itself, such as the workspace of a factorisation, is not seen.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.total = 0
        self.largest = 0
        self.peak = 0
        self._alive: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> object:
        given = {storage._cdata for storage in _storages((args, kwargs))}  # noqa: SLF001  (its identity)
        result = func(*args, **(kwargs or {}))
        for storage in _storages(result):
            if storage._cdata not in given:  # noqa: SLF001  (see above)
                self._add(storage)
        return result

    def _add(self, storage: torch.UntypedStorage) -> None:
        self._alive = {key: pair for key, pair in self._alive.items() if not pair[0].expired()}
        if storage._cdata in self._alive:  # noqa: SLF001  (see above)
            return
        self._alive[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())  # noqa: SLF001
        self.total += storage.nbytes()
        self.largest = max(self.largest, storage.nbytes())
        self.peak = max(self.peak, sum(size for _, size in self._alive.values()))


@dataclass(frozen=True)
class Memory(Section):
    """Bytes of state, and of temporaries in a step after the second, in units of the weights."""

    name: str = "memory"
    title: str = "Memory"

    def run(self, bench: Bench) -> list[Row]:
        return [row for net in bench.level.nets for row in _net(net, bench)]

    def show(self, rows: Sequence[Row]) -> str:
        columns = (
            Column("network", "net"),
            Column("optimizer", "optimizer"),
            Column("weights", "weights", tables.mebibytes),
            Column("state", "state", tables.times),
            Column("temporaries at their peak", "peak", tables.times),
            Column("largest one", "largest", tables.times),
            Column("allocated in all", "total", tables.times),
        )
        return tables.table(columns, rows)


def _net(net: str, bench: Bench) -> list[Row]:
    spec = NETS[net]
    model = spec.build(bench.device)
    drift = Drift.of(model, bench.device)
    entries = (SGD, ADAMW, *constrained(spec), *variants(), *(LITERALS[:2] if spec.literal else ()))
    return [_row(net, entry, entry.enter(model), drift) for entry in entries]


def _row(net: str, entry: Entry, contestant: Contestant, drift: Drift) -> Row:
    for _ in range(2):
        drift.move()
        contestant.give(drift.gradients)
        contestant.optimizer.step()
    with Allocations() as seen:
        contestant.optimizer.step()
    weights = sum(p.nbytes for p in contestant.parameters if p is not None)
    optimizer = contestant.optimizer
    return {
        "net": net,
        "optimizer": entry.name,
        "weights": weights,
        "state": state_bytes(optimizer) / weights if isinstance(optimizer, Optimizer) else None,
        "peak": seen.peak / weights,
        "largest": seen.largest / weights,
        "total": seen.total / weights,
    }


def state_bytes(optimizer: Optimizer) -> int:
    """Return the bytes of all tensors in an optimizer's state."""
    return sum({storage._cdata: storage.nbytes() for storage in _storages(dict(optimizer.state))}.values())  # noqa: SLF001


def _storages(values: object) -> Iterable[torch.UntypedStorage]:
    return [leaf.untyped_storage() for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]
