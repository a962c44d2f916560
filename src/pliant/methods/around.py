"""Around: any torch optimizer, with maps of the gradients before its step and of the weights after it."""

from __future__ import annotations

import copy
import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, TypeVar, overload

import torch
from torch import Tensor
from torch.optim import Optimizer

from pliant.methods.outer import Outer
from pliant.optim.agreement import agree_if_sharded, settings_of
from pliant.optim.gradient import gradient_of


class Moved(Protocol):
    """What is made of one parameter, such as `pliant.methods.Target`."""

    @property
    def parameter(self) -> Tensor:
        """The parameter."""


M = TypeVar("M", bound=Moved)


@dataclass(frozen=True)
class Step:
    """One optimizer step as a map sees it.

    Args:
        number: steps before this one; steps in which no parameter had a gradient do not count.
        groups: the parameter group of every parameter of the optimizer, by `id`, with its options as they are now.
        memory: what this map remembers from step to step: plain data and tensors, empty before the first step. It is
            saved and restored with the optimizer, so that a map itself holds nothing that changes.
    """

    number: int
    groups: Mapping[int, Mapping[str, Any]]
    memory: dict[str, Any]

    def moving(self, targets: Iterable[M]) -> Iterator[M]:
        """Yield the targets whose parameter has a gradient; all others must be left alone.

        Raises:
            ValueError: a parameter that is trained is not the optimizer's.
        """
        for target in targets:
            if target.parameter.requires_grad:
                self._of(target.parameter)
            if gradient_of(target.parameter) is not None:
                yield target

    def option(self, parameter: Tensor, name: str) -> Any:  # noqa: ANN401  (whatever the group holds)
        """Return an option, such as "momentum", of the parameter's group.

        Raises:
            ValueError: the parameter is not the optimizer's.
        """
        return self._of(parameter)[name]

    def _of(self, parameter: Tensor) -> Mapping[str, Any]:
        if id(parameter) not in self.groups:
            raise ValueError(
                f"a map names a parameter of shape {tuple(parameter.shape)} that is in no group of the optimizer; "
                "give both the parameters of one model, after fully_shard where that is used"
            )
        return self.groups[id(parameter)]

    def lr(self, parameter: Tensor) -> float | Tensor:
        """Return the learning rate of a parameter as it is now: a number, or a tensor of shape () on its device."""
        lr = self.option(parameter, "lr")
        return lr.to(parameter.device, non_blocking=True).reshape(()) if isinstance(lr, Tensor) else float(lr)


class StepMap(ABC):
    """What is done around every optimizer step. A map is a frozen dataclass; what it remembers is in `step.memory`.

    Both run without gradient tracking. A map leaves parameters without gradient alone (`step.moving`).
    """

    @abstractmethod
    def before(self, step: Step) -> None:
        """Edit gradients, before the optimizer reads them; do nothing where there is nothing to do."""

    @abstractmethod
    def after(self, step: Step) -> None:
        """Edit weights, in place, after the optimizer has moved them; do nothing where there is nothing to do."""


class Around(Outer):
    """An optimizer with maps around its step.

        g  <-  before(g)  for every map, in order
        w  <-  inner step with g
        w  <-  after(w)   for every map, in order, with the learning rate that the inner step used

    Parameter groups and state are those of the inner optimizer, so that schedulers drive it through this one. A step
    without any gradient runs no map. Maps keep to the parameters that they were built with.

    An optimizer that evaluates the closure itself (more than one gradient a step) goes outside: hand an `Around` to it.

    Args:
        inner: any torch optimizer that takes its step from the gradients that are there.
        maps: run in this order, before as after.
    """

    parts: ClassVar = ("inner", "maps", "taken", "memory")
    maps: tuple[StepMap, ...]
    taken: int
    memory: list[dict[str, Any]]

    def __init__(self, inner: Optimizer, maps: Sequence[StepMap]) -> None:
        wrong = [m for m in maps if not isinstance(m, StepMap)]
        if wrong:
            raise TypeError(f"maps must be StepMap objects, found {wrong[0]!r}")
        super().__init__(inner=inner, maps=tuple(maps), taken=0, memory=[{} for _ in maps])

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._agreed = False  # that all processes have the same groups and maps
        super().__setstate__(state)

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Take one step.

        Args:
            closure: evaluated once, before the maps; re-evaluates the model and returns the loss.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self._agreed = self._agreed or agree_if_sharded(self)
        steps = self._steps()
        for each, step in zip(self.maps, steps, strict=False):
            each.before(step)
        self.inner.step()
        for each, step in zip(self.maps, steps, strict=False):
            each.after(step)
        self.taken += bool(steps)
        return loss

    def settings(self) -> list[str]:
        """Return what the maps do, which must be alike on all processes."""
        return [*map(_spelled, self.maps), *settings_of(self.inner)]

    def _steps(self) -> list[Step]:
        """Return the step as every map sees it, or nothing if no parameter has a gradient."""
        if not any(gradient_of(p) is not None for group in self.param_groups for p in group["params"]):
            return []
        groups = {id(p): group for group in self.param_groups for p in group["params"]}
        return [Step(self.taken, groups, memory) for memory in self.memory]

    def packed(self) -> dict[str, Any]:
        """Return the inner optimizer's state, and what the maps remember."""
        return super().packed() | {"around": {"taken": self.taken, "memory": list(self.memory)}}

    def unpack(self, state: dict[str, Any]) -> None:
        """Take over what `packed` returned.

        Raises:
            ValueError: if it is not the state of an `Around` with as many maps.
        """
        own = state.get("around")
        if own is None or len(own["memory"]) != len(self.maps):
            found = "no maps at all" if own is None else f"{len(own['memory'])} maps"
            raise ValueError(f"state_dict must be that of an Around with {len(self.maps)} maps, found {found}")
        super().unpack({key: value for key, value in state.items() if key != "around"})
        self.taken = own["taken"]
        self.memory = copy.deepcopy(own["memory"])


def _spelled(each: StepMap) -> str:
    """Return a map's name and numbers."""
    fields: Sequence[dataclasses.Field[Any]] = dataclasses.fields(each) if dataclasses.is_dataclass(each) else ()
    plain = {f.name: value for f in fields if isinstance(value := getattr(each, f.name), int | float | str)}
    return f"{type(each).__name__}({', '.join(f'{name}={value!r}' for name, value in plain.items())})"
