"""AtCuts: what optimizers have in common that take gradients where the compressed model is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from pliant.methods.operators import Gate, Operator
from pliant.methods.outer import Outer
from pliant.sharding import is_sharded

Copies = Sequence[tuple[Tensor, Tensor]]


class AtCuts(Outer):
    """An optimizer around another one that compresses the model for a while in every step, and counts its steps.

    A kind names the `key` of that count in its state.

    Raises:
        ValueError: in the making, if parameters of the model are sharded.
    """

    key: ClassVar[str]
    model: nn.Module
    taken: int

    def __init__(self, inner: Optimizer, model: nn.Module, **parts: Any) -> None:  # noqa: ANN401  (as the kind names them)
        sharded = [name for name, p in model.named_parameters() if is_sharded(p)]
        if sharded:
            raise ValueError(
                f"{type(self).__name__} compresses the weights of the whole model in every step, but {sharded[0]} is "
                "sharded; train it with replicated weights (DistributedDataParallel)"
            )
        super().__init__(inner=inner, model=model, taken=0, **parts)

    def params(self) -> list[Tensor]:
        """Return the parameters of all groups."""
        return [p for group in self.param_groups for p in group["params"]]

    @contextmanager
    def kept_aside(self) -> Iterator[None]:
        """Put all parameters and buffers back to the bit, whatever happens to them, without moving any tensor."""
        before = self.copies()
        try:
            yield
        finally:
            put_back(before)

    def copies(self) -> Copies:
        """Return all parameters and buffers with copies of what is in them."""
        tensors = {id(t): t for t in (*self.params(), *self.model.parameters(), *self.model.buffers())}
        return [(t, t.detach().clone()) for t in tensors.values()]

    def state_dict(self) -> dict[str, Any]:
        """Return the inner optimizer's state and the number of steps."""
        return self.inner.state_dict() | {self.key: {"taken": self.taken}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what `state_dict` returned.

        Raises:
            ValueError: if it is not the state of an optimizer of this kind.
        """
        if self.key not in state_dict:
            raise ValueError(
                f"state_dict must be that of a {type(self).__name__}, found one with {', '.join(state_dict)}"
            )
        self.inner.load_state_dict({key: value for key, value in state_dict.items() if key != self.key})
        self.taken = state_dict[self.key]["taken"]
        self.share()


# Autocast keeps its casts of the weights until its outermost context ends, even if the weights change in place: what
# changes them between two forward passes clears the casts, for loops that take whole steps under autocast.


def cut_in_place(operator: Operator, fraction: float) -> Mapping[Tensor, Gate]:
    """Compress the model of an operator, and return the gates of its gradients."""
    gates = operator.compress(fraction)
    torch.clear_autocast_cache()
    return gates


def put_back(copies: Copies) -> None:
    """Make tensors what they were, in place."""
    with torch.no_grad():
        for tensor, old in copies:
            tensor.copy_(old)
    torch.clear_autocast_cache()


def exchange(copies: Copies) -> None:
    """Exchange what is in tensors with what is in their copies, in place."""
    with torch.no_grad():
        for tensor, other in copies:
            now = tensor.clone()
            tensor.copy_(other)
            other.copy_(now)
    torch.clear_autocast_cache()
