"""Outer: what an optimizer around another one needs, so that schedulers, checkpoints and users cannot tell."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.optim import Optimizer

from pliant.sharding import is_sharded


class Outer(Optimizer):
    """An optimizer around an inner one, whose parameter groups and state are its own.

    A kind names its parts, `inner` among them: they are what is copied and pickled, and all that it holds.
    """

    parts: ClassVar[tuple[str, ...]]
    inner: Optimizer

    def __init__(self, **parts: Any) -> None:  # noqa: ANN401  (as the kind names them)
        self.__setstate__(parts)

    def __getstate__(self) -> dict[str, Any]:
        return {name: self.__dict__[name] for name in self.parts}

    def __setstate__(self, state: dict[str, Any]) -> None:
        for name in self.parts:
            setattr(self, name, state[name])
        self.share()
        super().__setstate__({})  # hooks and patches, as torch restores them on unpickling

    def share(self) -> None:
        """Make groups and state those of the inner optimizer, which may have replaced them."""
        self.defaults = self.inner.defaults
        self.state = self.inner.state
        self.param_groups = self.inner.param_groups

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group to the inner optimizer."""
        self.inner.add_param_group(param_group)


def refuse_sharded(model: nn.Module) -> None:
    """Refuse a model that compressors cannot see the whole of.

    Raises:
        ValueError: if a parameter of the model is sharded.
    """
    sharded = [name for name, p in model.named_parameters() if is_sharded(p)]
    if sharded:
        raise ValueError(
            f"the weights of the whole model are compressed in every step, but {sharded[0]} is sharded; train it with "
            "replicated weights (DistributedDataParallel)"
        )


@contextmanager
def kept_aside(model: nn.Module, params: Sequence[Tensor]) -> Iterator[None]:
    """Put all parameters and buffers back to the bit, whatever happens to them, without moving any tensor."""
    tensors = list({id(t): t for t in (*params, *model.parameters(), *model.buffers())}.values())
    before = [t.detach().clone() for t in tensors]
    try:
        yield
    finally:
        for tensor, old in zip(tensors, before, strict=True):
            tensor.copy_(old)
