"""Activation memory: what one call of a model allocates besides its weights."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from pliant.metrics.modules import split_by_module
from pliant.structure.attention import slow_path
from pliant.structure.example import Example, call, leaves_of
from pliant.structure.untouched import untouched


@dataclass(frozen=True)
class ActivationMemory:
    """Bytes that operators return in one call; weights, buffers and the example itself do not count.

    Args:
        total: all of them together, as if nothing were freed: about what training keeps for the backward pass.
        peak: the most that is alive at once without gradients: what inference needs.
        modules: qualified module name -> its share of the total, the model itself under "".
    """

    total: int
    peak: int
    modules: Mapping[str, int]


def activation_memory(model: nn.Module, example: Example) -> ActivationMemory:
    """Measure the activations of one call in evaluation mode without gradients; the model is left as it was.

    Views and writes in place allocate nothing and count nothing. Memory that a kernel takes and gives back inside one
    operator is not seen.

    Args:
        model: any module.
        example: what the model can be called with; its batch size counts.
    """
    outside = [*model.parameters(), *model.buffers(), *leaves_of(example)]
    ledger = _Ledger(tensor for tensor in outside if isinstance(tensor, Tensor))
    with untouched(model), torch.no_grad(), slow_path(), ledger:
        shares = split_by_module(model, lambda: call(model, example), lambda: ledger.total)
    return ActivationMemory(total=ledger.total, peak=ledger.peak, modules=shares)


class _Ledger(TorchDispatchMode):
    """Books the storage of every tensor that an operator returns, until it is freed."""

    def __init__(self, outside: Iterable[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.total = self.peak = self._live = 0
        self._known = {key for tensor in outside for key, _ in _storage(tensor)}

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: object,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401  (whatever the operator returns)
        del types
        output = func(*args, **(kwargs or {}))
        for tensor in pytree.tree_leaves(output):
            if isinstance(tensor, Tensor):
                self._book(tensor)
        return output

    def _book(self, tensor: Tensor) -> None:
        for key, storage in _storage(tensor):
            if key in self._known:
                continue
            self._known.add(key)
            self.total += storage.nbytes()
            self._live += storage.nbytes()
            self.peak = max(self.peak, self._live)
            weakref.finalize(storage, self._free, key, storage.nbytes()).atexit = False

    def _free(self, key: int, size: int) -> None:
        self._known.discard(key)  # the address may be used again
        self._live -= size


def _storage(tensor: Tensor) -> Iterator[tuple[int, torch.UntypedStorage]]:
    if tensor.layout is torch.strided:
        storage = tensor.untyped_storage()
        yield storage._cdata, storage  # noqa: SLF001  (the address of the storage itself, also on the meta device)
