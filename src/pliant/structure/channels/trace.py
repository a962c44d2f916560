"""channel_graph: run the model, follow its labels, read off the groups."""

from __future__ import annotations

import copy
import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from pliant.structure.attention import PrunedAttention, slow_path
from pliant.structure.channels.graph import ChannelGraph
from pliant.structure.channels.groups import read_groups
from pliant.structure.channels.labels import Labels
from pliant.structure.channels.tracer import Tracer
from pliant.structure.copies import fresh_copy
from pliant.structure.example import Example, batch_size, call, mapped, resized
from pliant.structure.matricise import is_layer
from pliant.structure.norms import is_norm
from pliant.structure.outputs import outputs_of
from pliant.structure.recurrent import step_by_step
from pliant.structure.unfit import refuse_unfit

_LOG = logging.getLogger(__name__)


def channel_graph(model: nn.Module, example: Example) -> ChannelGraph:
    """Find which slices of which parameters and buffers must be removed together.

    A copy of the model runs on the example, in evaluation mode and in training mode (on twice the samples, if it does
    not train on these), while every tensor is shadowed by integer labels: each slice of each parameter has one of its
    own; operators that move entries move the labels, and operators that combine entries unify them. What reaches an
    output, or an operator that is not understood, stays.

    Args:
        model: left as it is.
        example: what the model can be called with: a tensor, or positional or keyword arguments.

    Returns:
        the groups of atoms that can be removed without any change to what stays, and what can not, with the reason.

    Raises:
        ValueError: if the model cannot be watched or copied (`refuse_unfit`), or returns no tensor.
    """
    refuse_unfit(model)
    labels = Labels()
    twin, example = _with_broadcast_masks(fresh_copy(model)), mapped(example, _contiguous)
    for tensor in (*twin.parameters(), *twin.buffers()):
        tensor.data = tensor.data.contiguous()  # other memory formats run other operators
    roots = _plain_tensors(twin, labels)
    evaluated = _run(twin.eval(), example, labels, roots)
    if evaluated.error is not None:
        raise evaluated.error
    runs = [evaluated, *_train(twin.train(), example, labels, roots, evaluated.used)]
    graph = read_groups(model, labels, frozenset[str]().union(*(run.used for run in runs)))
    return replace(graph, called=frozenset[str]().union(*(run.called for run in runs)))


def _contiguous(value: Any) -> Any:  # noqa: ANN401  (any part of an example)
    return value.contiguous() if isinstance(value, Tensor) else value


def _with_broadcast_masks(model: nn.Module) -> nn.Module:
    """Exchange torch's attention, in place, which copies masks for each head: they would tie all heads together."""
    for name, module in list(model.named_modules(remove_duplicate=False)):
        if name and type(module) is nn.MultiheadAttention:
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, PrunedAttention(module))
    return model


@dataclass(frozen=True)
class _Root:
    """A parameter or buffer that is used as it is.

    Args:
        layers: its labels, one vector per dimension.
        table: whether it only follows what it meets.
    """

    layers: Sequence[Tensor]
    table: bool


_Roots = Mapping[str, _Root]  # by the name of the tensor


def _plain_tensors(model: nn.Module, labels: Labels) -> _Roots:
    """Return the parameters and buffers that are used as they are, tied ones once, with fresh labels."""
    modules = dict(model.named_modules())
    opaque = [name for name, module in modules.items() if not _is_plain(module)]
    known = dict(model.named_parameters())
    return {
        name: _Root(
            [labels.fresh(name, dim, size) for dim, size in enumerate(tensor.shape)],
            table=name not in known and not (tensor.is_floating_point() and _learns(modules[name.rpartition(".")[0]])),
        )
        for name, tensor in (*known.items(), *model.named_buffers())
        if _has_slices(tensor) and not any(_is_inside(name, module) for module in opaque)
        if tensor.is_floating_point() or name not in known
    }


def _has_slices(tensor: Tensor) -> bool:
    plain = tensor.layout is torch.strided and not tensor.is_complex() and not tensor.is_quantized
    return plain and tensor.ndim > 0 and tensor.numel() > 0


def _is_plain(module: nn.Module) -> bool:
    if isinstance(module, nn.utils.parametrize.ParametrizationList) or nn.utils.parametrize.is_parametrized(module):
        return False
    return not is_layer(module) or "weight" in dict(module.named_parameters(recurse=False))


def _learns(owner: nn.Module) -> bool:
    """Tell whether a module's buffers make channels; those of others, of positions, masks, ..., only follow them."""
    return is_norm(owner) or any(True for _ in owner.parameters(recurse=False))


def _is_inside(name: str, module: str) -> bool:
    return not module or name.startswith(f"{module}.")


@dataclass(frozen=True)
class _Run:
    """One run.

    Args:
        used: names of the parameters and buffers that operators were given.
        called: names of the modules that ran.
        error: what ended it early.
    """

    used: Collection[str]
    called: Collection[str]
    error: Exception | None = None


def _train(twin: nn.Module, example: Example, labels: Labels, roots: _Roots, evaluated: Collection[str]) -> list[_Run]:
    """Run in training mode, on twice the samples if need be: batch norm, for one, refuses to train on one.

    Where that fails too, what a run began to use, and no other mode uses, stays: the rest of its readers are not seen.

    Args:
        twin: in training mode.
        example: what it can be called with.
        labels: where what is found goes.
        roots: its labels.
        evaluated: names of the parameters and buffers that are used in evaluation mode.

    Returns:
        the runs.
    """
    size = batch_size(example)
    runs: list[_Run] = []
    for tried in (example,) if size is None else (example, resized(example, size, 2 * size)):
        runs.append(_run(twin, tried, labels, roots))
        if runs[-1].error is None:
            return runs
    _freeze_training(runs, labels, roots, evaluated)
    return runs


def _freeze_training(runs: Sequence[_Run], labels: Labels, roots: _Roots, evaluated: Collection[str]) -> None:
    error = runs[-1].error
    first_line = next(iter(str(error).splitlines()), "")
    failure = f"in training mode the model does not run on the example ({type(error).__name__}: {first_line})"
    for name in sorted(set[str]().union(*(run.used for run in runs)).difference(evaluated)):
        for layer in roots[name].layers:
            labels.freeze(layer, f"only training uses it, and {failure}", first=True)
    _LOG.warning("%s: what only training uses stays, and what that would read of the rest is not seen", failure)


def _run(twin: nn.Module, example: Example, labels: Labels, roots: _Roots) -> _Run:
    """Follow the labels through one run; outputs stay, if it comes to an end."""
    watched = copy.deepcopy(twin) if twin.training else twin
    tracer = Tracer(labels)
    tensors = dict((*watched.named_parameters(), *watched.named_buffers()))
    for name, root in roots.items():
        tracer.root(name, tensors[name], root.layers, table=root.table)
    tracer.watch(watched)
    devices = {p.device.index for p in watched.parameters() if p.is_cuda}
    try:
        with torch.random.fork_rng(devices=devices), plain(watched), torch.no_grad(), tracer:
            outputs = outputs_of(call(watched, example))
    except Exception as error:  # noqa: BLE001  (whatever somebody's own forward raises)
        return _Run(tracer.used, tracer.called, error)
    for tensor, path in outputs:
        for layer in tracer.read(tensor).layers:
            labels.freeze(layer, f"an output of the model{path}", first=True)
    return _Run(tracer.used, tracer.called)


@contextmanager
def plain(model: nn.Module) -> Iterator[None]:
    """Let attention and recurrent layers run as the matrix products that they are."""
    with slow_path(), sdpa_kernel(SDPBackend.MATH), step_by_step(model):
        yield
