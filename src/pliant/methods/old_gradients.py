"""OldGradients: what a closure makes of the gradients that are there when it is called."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from types import TracebackType
from typing import Self

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle
from torch.utils.weak import TensorWeakRef


class OldGradients:
    """Watches a closure while it is a context: whether it evaluates anything, and whether it clears before it adds.

    It keeps no gradient alive, and waits for the device only where a closure has cleared gradients in place.

    Args:
        params: those whose gradients count.
    """

    def __init__(self, params: Iterable[Tensor]) -> None:
        self._old = [(p, TensorWeakRef(p.grad), p.grad._version) for p in params if p.grad is not None]  # noqa: SLF001
        self._handles: list[RemovableHandle] = []
        self._reached = False  # by a backward pass
        self._nonzero: Tensor | None = None  # what the pass found in the gradient that it reached first
        self._added_to = False

    def __enter__(self) -> Self:
        self._handles = [p.register_hook(partial(self._reach, p)) for p, *_ in self._old if p.requires_grad]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for handle in self._handles:
            handle.remove()

    @property
    def untouched(self) -> bool:
        """Whether there were gradients, and nothing has been done to them."""
        return bool(self._old) and all(_is_still(p.grad, old(), version) for p, old, version in self._old)

    @property
    def kept(self) -> bool:
        """Whether new gradients were added to old ones that are not zero."""
        return self._added_to and self._nonzero is not None and bool(self._nonzero)

    def _reach(self, p: Tensor, _: Tensor) -> None:
        """Look at a gradient before the new one is added to it."""
        if not self._reached and p.grad is not None and p.grad.layout is torch.strided:
            self._nonzero = p.grad.any()
            # torch.autograd.grad comes by as well, and adds nothing.
            self._handles.append(p.register_post_accumulate_grad_hook(self._add))
        self._reached = True

    def _add(self, _: Tensor) -> None:
        self._added_to = True


def _is_still(now: Tensor | None, old: Tensor | None, version: int) -> bool:
    return now is not None and now is old and now._version == version  # noqa: SLF001
