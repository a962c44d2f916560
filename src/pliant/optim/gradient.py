"""Which gradients count: those of parameters that are trained."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from torch import Tensor


def gradient_of(p: Tensor) -> Tensor | None:
    """Return the gradient of a parameter; None where it has none or is frozen.

    `zero_grad(set_to_none=False)` leaves zeros behind in parameters that are frozen afterwards, along which the
    momentum would go on moving them.
    """
    return p.grad if p.requires_grad else None


@contextmanager
def frozen_without_gradients(params: Iterable[Tensor]) -> Iterator[None]:
    """Hide the gradients of frozen parameters from an optimizer of torch, which would move them."""
    hidden = [(p, p.grad) for p in params if not p.requires_grad and p.grad is not None]
    for p, _ in hidden:
        p.grad = None
    try:
        yield
    finally:
        for p, grad in hidden:
            p.grad = grad
