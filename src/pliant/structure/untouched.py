"""Running somebody's model without leaving a trace in it."""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pliant.structure.norms import CHANNEL_NORMS


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[nn.Module]:
    """Put a model into evaluation mode; on leaving, every module gets its own mode back."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        yield model.eval()
    finally:
        for module, mode in modes:
            module.training = mode


@contextmanager
def untouched(model: nn.Module) -> Iterator[nn.Module]:
    """Run a model in evaluation mode; on leaving, modes, buffers and attributes are what they were.

    Some modules write down what they see in evaluation mode too: the observers of quantisation, running maxima,
    counters of steps, caches. What a module holds in containers of its own (a list, say) stays as it is then. Batch and
    instance norm write nothing in evaluation mode, and are left to whoever measures their running statistics meanwhile.

    Args:
        model: its buffers are held twice meanwhile, its parameters are not.
    """
    with eval_mode(model):
        states = [_State.of(module) for module in model.modules() if not isinstance(module, CHANNEL_NORMS)]
        try:
            yield model
        finally:
            with torch.no_grad():
                for state in states:
                    state.restore()


@dataclass(frozen=True, eq=False)
class _State:
    """What a module holds.

    Args:
        module: the module.
        kind: its class, which a lazy module changes when it first runs.
        tables: its attributes, buffers and children, each with what was in it.
        values: tensors that are no parameters, each with what it was.
        parameters: names; what they stand for is left alone, for sharded models exchange it when they run.
    """

    module: nn.Module
    kind: type[nn.Module]
    tables: list[tuple[MutableMapping[str, Any], dict[str, Any]]]
    values: list[tuple[Tensor, Tensor]]
    parameters: set[str]

    @classmethod
    def of(cls, module: nn.Module) -> _State:
        held = vars(module)
        own: list[Any] = [] if isinstance(module, torch.jit.ScriptModule) else [held]
        own += [held[name] for name in ("_buffers", "_modules") if own and name in held]
        attributes = (one for one in held.values() if isinstance(one, Tensor) and not isinstance(one, nn.Parameter))
        tensors = [*module.buffers(recurse=False), *attributes]
        return cls(
            module=module,
            kind=type(module),
            tables=[(table, dict(table)) for table in own],
            values=[(tensor, tensor.detach().clone()) for tensor in tensors if _has_values(tensor)],
            parameters=set(held.get("_parameters", ())),
        )

    def restore(self) -> None:
        if type(self.module) is not self.kind:
            return
        parameters = vars(self.module).get("_parameters", {})
        for name in parameters.keys() - self.parameters:
            del parameters[name]
        for table, before in self.tables:
            if len(table) != len(before) or any(table.get(name, table) is not held for name, held in before.items()):
                table.clear()
                table.update(before)
        for tensor, value in self.values:
            if tensor.shape != value.shape:
                tensor.resize_(value.shape)
            if not torch.equal(tensor, value):
                tensor.copy_(value)


def _has_values(tensor: Tensor) -> bool:
    return tensor.layout is torch.strided and not tensor.is_meta
