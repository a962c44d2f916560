"""Outer: what an optimizer around another one needs, so that schedulers, checkpoints and users cannot tell."""

from __future__ import annotations

from typing import Any, ClassVar

from torch.optim import Optimizer


class Outer(Optimizer):
    """An optimizer around an inner one, whose parameter groups and state are its own.

    A kind names its parts, `inner` among them: they are what is copied and pickled, and all that it holds. Of what it
    holds nothing has a default in the class, which would hide it from wrappers that are subclasses of the kind and look
    up in what they wrap whatever they lack.
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

    def state_dict(self) -> dict[str, Any]:
        """Return the inner optimizer's state and what a kind adds; hooks run as those of every torch optimizer."""
        for prepare in self._optimizer_state_dict_pre_hooks.values():
            prepare(self)
        state = self.packed()
        for edit in self._optimizer_state_dict_post_hooks.values():
            edited = edit(self, state)
            state = state if edited is None else edited
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what `state_dict` returned; hooks run as those of every torch optimizer.

        Raises:
            ValueError: if it is not the state of an optimizer of this kind.
        """
        state = state_dict.copy()
        for edit in self._optimizer_load_state_dict_pre_hooks.values():
            edited = edit(self, state)
            state = state if edited is None else edited
        self.unpack(state)
        for finish in self._optimizer_load_state_dict_post_hooks.values():
            finish(self)

    def packed(self) -> dict[str, Any]:
        """Return the state that is saved."""
        return self.inner.state_dict()

    def unpack(self, state: dict[str, Any]) -> None:
        """Take over what `packed` returned.

        Raises:
            ValueError: if it is not the state of an optimizer of this kind.
        """
        self.inner.load_state_dict(state)
        self.share()


def innermost(optimizer: Optimizer) -> Optimizer:
    """Return the optimizer that takes the steps, inside all that is around it."""
    while isinstance(optimizer, Outer):
        optimizer = optimizer.inner
    return optimizer
