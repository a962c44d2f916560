"""Which module a cost belongs to: what a meter counts during one call, split over the modules that were running."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from torch import nn


def split_by_module(model: nn.Module, run: Callable[[], object], read: Callable[[], int]) -> dict[str, int]:
    """Split what a meter counts over the innermost modules that were running; the shares add up to the whole.

    Args:
        model: its modules are watched while `run` runs.
        run: calls the model.
        read: returns the meter's count so far, which never falls.

    Returns:
        qualified name of every module ("" is the model itself) -> its share; a module that is used several times has
        one share for all of its calls.
    """
    names = {module: name for name, module in model.named_modules()}
    books = _Books(dict.fromkeys(names.values(), 0), read, read())
    handles = [module.register_forward_pre_hook(books.entering(name), prepend=True) for module, name in names.items()]
    handles += [module.register_forward_hook(books.leave) for module in names]
    try:
        run()
        books.settle()
    finally:
        for handle in handles:
            handle.remove()
    return books.shares


@dataclass
class _Books:
    """Who has spent what so far, and which modules are running, the innermost last."""

    shares: dict[str, int]
    read: Callable[[], int]
    last: int
    running: list[str] = field(default_factory=lambda: [""])

    def settle(self) -> None:
        now = self.read()
        self.shares[self.running[-1]] += now - self.last
        self.last = now

    def entering(self, name: str) -> Callable[[nn.Module, object], None]:
        def enter(_: nn.Module, __: object) -> None:
            self.settle()
            self.running.append(name)

        return enter

    def leave(self, _: nn.Module, __: object, ___: object) -> None:
        self.settle()
        self.running.pop()
