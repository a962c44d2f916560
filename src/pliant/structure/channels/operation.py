"""One operator call of a run, as the rules see it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pliant.structure.channels.graph import Role
from pliant.structure.channels.labels import Labels
from pliant.structure.channels.shadow import Shadow, combine


@dataclass(frozen=True)
class Operation:
    """One operator call of a run.

    Args:
        name: of the operator, such as "aten.add".
        arguments: argument name -> value, defaults included.
        positional: the values of those that can be given by position.
        outputs: the tensors that it returned.
        labels: what is known so far.
        module: the name of the module whose forward called it.
        read: returns the shadow of a tensor.
    """

    name: str
    arguments: dict[str, Any]
    positional: tuple[Any, ...]
    outputs: tuple[Tensor, ...]
    labels: Labels
    module: str
    read: Callable[[Tensor], Shadow]

    def tensor(self, name: str) -> Shadow | None:
        """Return the shadow of an argument, None if it is no tensor."""
        value = self.arguments.get(name)
        return self.read(value) if isinstance(value, Tensor) else None

    def need(self, name: str) -> Shadow:
        """Return the shadow of an argument that is a tensor."""
        return self.read(self.arguments[name])

    def tensors(self) -> list[Tensor]:
        """Return all tensors among the arguments."""
        found: list[Tensor] = []
        for value in self.arguments.values():
            items = value if isinstance(value, list | tuple) else (value,)
            found += [item for item in items if isinstance(item, Tensor)]
        return found

    @property
    def shape(self) -> tuple[int, ...]:
        """Return the shape of the first output."""
        return tuple(self.outputs[0].shape)

    def reason(self, text: str) -> str:
        """Return a reason that says where."""
        return f"{text} {self.name} in {self.where}"

    @property
    def where(self) -> str:
        """Return the calling module in words."""
        return repr(self.module) if self.module else "the model"

    def count(self, name: str, labels: Tensor) -> None:
        """Say that the calling module keeps the number of these labels under a name."""
        self.labels.counts.append((self.module, name, labels.numpy().copy()))

    def add(self, shadow: Shadow, name: str, role: Role, dim: int | None = None) -> Shadow:
        """Combine a shadow with a vector argument: along the last dimension, or along `dim`."""
        vector = self.tensor(name)
        if vector is None:
            return shadow
        if vector.learnt:
            for layer in (*vector.layers, *vector.tables):
                self.labels.mark(role, layer)
        if dim is not None:
            trailing = (1,) * (len(shadow.shape) - dim - 1)
            vector = vector.reshaped((*vector.shape, *trailing))
        joined = combine([shadow, vector], shadow.shape, self.labels, self.reason("its width meets that of"))
        return Shadow(joined.shape, joined.layers, joined.learnt)


def not_understood(operation: Operation) -> list[Shadow]:
    """Let everything that an operator is given stay, and return its outputs without labels."""
    reason = f"it feeds {operation.name} in {operation.where}, which is not understood"
    for tensor in operation.tensors():
        shadow = operation.read(tensor)
        for layer in (*shadow.layers, *shadow.tables):
            operation.labels.freeze(layer, reason)
    return [Shadow(tuple(output.shape)) for output in operation.outputs]


Rule = Callable[[Operation], Shadow | Sequence[Shadow]]


def operators(names: str) -> list[object]:
    """Return those of torch's operators, given by name, that this version of torch has."""
    found = [getattr(torch.ops.aten, name, None) for name in names.split()]
    return [operator for operator in found if operator is not None]
