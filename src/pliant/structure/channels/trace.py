"""channel_graph: run the model, follow its labels, read off the groups."""

from __future__ import annotations

import copy
import dataclasses
import logging
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from pliant.structure.channels.graph import ChannelGraph
from pliant.structure.channels.groups import read_groups
from pliant.structure.channels.labels import Labels
from pliant.structure.channels.tracer import Tracer, watch
from pliant.structure.copies import fresh_copy
from pliant.structure.matricise import PRUNABLE
from pliant.structure.norms import Example, call, is_norm, refuse_compiled

_LOG = logging.getLogger(__name__)


def channel_graph(model: nn.Module, example: Example) -> ChannelGraph:
    """Find which slices of which parameters and buffers must be removed together.

    A copy of the model runs on the example, in evaluation mode and in training mode, while every tensor is shadowed by
    integer labels: each slice of each parameter has one of its own; operators that move entries move the labels, and
    operators that combine entries unify them. What reaches an output, or an operator that is not understood, stays.

    Args:
        model: left as it is.
        example: what the model can be called with: a tensor, or a sequence of positional arguments.

    Returns:
        the groups of atoms that can be removed without any change to what stays, and what can not, with the reason.

    Raises:
        ValueError: if the model, or a part of it, is wrapped by `torch.compile`.
    """
    refuse_compiled(model)
    labels = Labels()
    twin = fresh_copy(model)
    roots = {name: (tensor, _fresh(labels, name, tensor)) for name, tensor in _plain_tensors(twin).items()}
    for training in (False, True):
        _run(twin.train(training), example, labels, roots)
    return read_groups(model, labels)


def _plain_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return the parameters and buffers that are used as they are, tied ones once."""
    modules = dict(model.named_modules())
    opaque = [name for name, module in modules.items() if not _is_plain(module)]
    buffers = ((name, buffer) for name, buffer in model.named_buffers() if _learns(modules[name.rpartition(".")[0]]))
    named = (*model.named_parameters(), *buffers)
    return {
        name: tensor
        for name, tensor in named
        if tensor.is_floating_point() and tensor.ndim and not any(_is_inside(name, module) for module in opaque)
    }


def _is_plain(module: nn.Module) -> bool:
    if isinstance(module, nn.utils.parametrize.ParametrizationList) or nn.utils.parametrize.is_parametrized(module):
        return False
    return not isinstance(module, PRUNABLE) or "weight" in dict(module.named_parameters(recurse=False))


def _learns(owner: nn.Module) -> bool:
    """Tell whether a module's buffers go with channels; those of others are tables of positions, masks, ..."""
    return is_norm(owner) or any(True for _ in owner.parameters(recurse=False))


def _is_inside(name: str, module: str) -> bool:
    return not module or name.startswith(f"{module}.")


def _fresh(labels: Labels, name: str, tensor: Tensor) -> list[Tensor]:
    return [labels.fresh(name, dim, size) for dim, size in enumerate(tensor.shape)]


def _run(twin: nn.Module, example: Example, labels: Labels, roots: dict[str, tuple[Tensor, list[Tensor]]]) -> None:
    watched = copy.deepcopy(twin) if twin.training else twin
    tracer = Tracer(labels)
    tensors = dict((*watched.named_parameters(), *watched.named_buffers()))
    for name, (_, layers) in roots.items():
        tracer.root(tensors[name], layers)
    watch(watched, tracer)
    devices = {p.device.index for p in watched.parameters() if p.is_cuda}
    try:
        with torch.random.fork_rng(devices=devices), plain_attention(), torch.no_grad(), tracer:
            output = call(watched, example)
    except Exception as error:
        if not watched.training:
            raise
        # Batch norm, for one, refuses to train on one sample.
        _LOG.info("the model does not run in training mode on the example (%s): its channels there are not seen", error)
        return
    for tensor, path in outputs_of(output):
        for layer in tracer.read(tensor).layers:
            labels.freeze(layer, f"an output of the model{path}", first=True)


@contextmanager
def plain_attention() -> Iterator[None]:
    """Let attention run as the matrix products that it is."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(value=False)
    with ExitStack() as stack:
        stack.callback(torch.backends.mha.set_fastpath_enabled, value=fast)
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        yield


def outputs_of(value: object, path: str = "", depth: int = 0) -> Iterator[tuple[Tensor, str]]:
    """Yield the tensors in what a model returned, whatever holds them, each with its place in words."""
    if isinstance(value, Tensor):
        yield value, f" ({path})" if path else ""
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from outputs_of(item, f"{path}[{key!r}]", depth + 1)
    elif isinstance(value, list | tuple | set | frozenset):
        for index, item in enumerate(value):
            yield from outputs_of(item, f"{path}[{index}]" if depth else path, depth + 1)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            yield from outputs_of(getattr(value, field.name), f"{path}.{field.name}", depth + 1)
    elif (
        isinstance(value, object)
        and depth < _DEEP
        and not isinstance(value, str | bytes | int | float | type | nn.Module)
    ):
        for name, item in getattr(value, "__dict__", {}).items():
            yield from outputs_of(item, f"{path}.{name}", depth + 1)


_DEEP = 8  # caches of keys and values hold tensors a few objects down; something may hold itself
