"""AtCuts: what optimizers have in common that take gradients where the compressed model is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from pliant.methods.old_gradients import OldGradients
from pliant.methods.operators import Gate, Operator
from pliant.methods.outer import Outer
from pliant.sharding import is_sharded

Copies = Sequence[tuple[Tensor, Tensor]]


class AtCuts(Outer):
    """An optimizer around another one that compresses the model for a while in every step, and counts its steps.

    The count is an entry of the first parameter group, "key_taken" with the `key` of the kind: what belongs to no
    parameter is lost elsewhere, where `torch.distributed.checkpoint` saves it.

    Raises:
        ValueError: in the making, if parameters of the model are sharded.
    """

    key: ClassVar[str]
    protocol: ClassVar[str]  # what its step asks of a closure
    model: nn.Module

    def __init__(self, inner: Optimizer, model: nn.Module, **parts: Any) -> None:  # noqa: ANN401  (as the kind names them)
        sharded = [name for name, p in model.named_parameters() if is_sharded(p)]
        if sharded:
            raise ValueError(
                f"{type(self).__name__} compresses the weights of the whole model in every step, but {sharded[0]} is "
                "sharded; train it with replicated weights (DistributedDataParallel)"
            )
        super().__init__(inner=inner, model=model, **parts)
        self._count(0)

    @property
    def taken(self) -> int:
        """The number of steps so far; those in which no parameter had a gradient do not count."""
        return int(self.param_groups[0][self._entry])

    def _count(self, taken: int) -> None:
        self.param_groups[0][self._entry] = taken

    @property
    def _entry(self) -> str:
        return f"{self.key}_taken"

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

    def evaluated(self, closure: Callable[[], float | None]) -> float | None:
        """Return the loss of a closure that is to find the gradients anew.

        Raises:
            ValueError: if it left gradients as they were, or added to them.
        """
        with OldGradients(self.params()) as old, torch.enable_grad():
            loss = closure()
        if loss is None and old.untouched:  # those who forget to return the loss have evaluated it
            raise ValueError(f"{self.protocol}. This one evaluated nothing, and the gradients are those from before")
        if old.kept:
            raise ValueError(
                f"{self.protocol}. This one added to gradients that were there: clear them in the closure, and where "
                "several batches make a step, evaluate all of them in it"
            )
        return loss

    def makes_state(self) -> bool:
        """Whether this is no step: `torch.distributed.checkpoint` lets an optimizer make its state by a step of zeros.

        All rates are zero then, and all gradients. Waits for the device where all rates are.
        """
        still = all(group.get("lr") == 0.0 for group in self.param_groups)
        return still and not any(bool(p.grad.any()) for p in self.params() if p.grad is not None)

    def unpack(self, state: dict[str, Any]) -> None:
        """Take over what `packed` returned.

        Raises:
            ValueError: if it is not the state of an optimizer of this kind.
        """
        groups = [dict(group) for group in state["param_groups"]]
        if self.key in state:  # where it was before it was an entry of a group
            groups[0][self._entry] = state[self.key]["taken"]
        if self._entry not in groups[0]:
            raise ValueError(f"state_dict must be that of a {type(self).__name__}, found one with {', '.join(state)}")
        own = {"param_groups": groups}
        super().unpack({key: value for key, value in (state | own).items() if key != self.key})


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
