"""Outer: what an optimizer around another one needs, so that schedulers, checkpoints and users cannot tell."""

from __future__ import annotations

from typing import Any, ClassVar

from torch.optim import Optimizer


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


def innermost(optimizer: Optimizer) -> Optimizer:
    """Return the optimizer that takes the steps, inside all that is around it."""
    while isinstance(optimizer, Outer):
        optimizer = optimizer.inner
    return optimizer
