"""Repair after a cut: new running statistics for the norm layers, without gradients."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from pliant.compress.replay import labels_hint
from pliant.structure.example import Example, call
from pliant.structure.untouched import untouched


@dataclass(frozen=True)
class Inputs:
    """The inputs of batches (inputs, labels), for what needs no labels; can be iterated as often as the batches.

    Args:
        batches: an iterable of pairs, of tensors, which are inputs as they are, or of mappings such as those of Hugging
            Face's collators, in which `labels` are left out.
    """

    batches: Iterable[Any]

    def __iter__(self) -> Iterator[Example]:
        for batch in self.batches:
            if isinstance(batch, Tensor):
                yield batch
            elif isinstance(batch, Mapping):
                yield {name: value for name, value in batch.items() if name != "labels"}
            else:
                yield batch[0]


def recalibrate_batchnorm(model: nn.Module, batches: Iterable[Example]) -> nn.Module:
    """Return a copy of the model whose running statistics are those of these batches.

    For every norm layer with running statistics (batch norm in one to three dimensions or synchronised, instance norm):

        running = sum_i n_i * statistics of batch i / sum_i n_i,    n_i = values per channel in batch i

    so that a smaller last batch counts for what it holds. The mean is that of all values together; the variance is the
    mean of the variances within batches, as in training. Only those layers run in training mode (dropout stays off);
    modes, momentum and everything else are kept, and so are the statistics of a norm that no batch reaches.

    Args:
        model: left as it is.
        batches: what the model can be called with; training data.

    Raises:
        ValueError: if there is no batch, or a norm layer reads infinite or undefined numbers, or one value per channel.
    """
    copied = copy.deepcopy(model)
    recompute_statistics(copied, batches, call)
    return copied


def recompute_statistics(
    model: nn.Module, batches: Iterable[Example], run: Callable[[nn.Module, Example], object]
) -> None:
    """Do in place what `recalibrate_batchnorm` does, with what `run` runs of the model on a batch."""
    norms = {name: _Averaging(module, name) for name, module in model.named_modules() if has_statistics(module)}
    if not norms:
        return
    with ExitStack() as stack:
        stack.enter_context(untouched(model))
        for norm in norms.values():
            stack.enter_context(norm.averaging())
        _run(model, batches, run)
    for name, norm in norms.items():
        if not norm.is_finite():
            raise ValueError(
                f"batches: norm layer {name!r} reads infinite or undefined numbers, it has no statistics; look for "
                "them in the batches, or in what the model makes of these"
            )


def has_statistics(module: nn.Module) -> bool:
    """Tell whether a module is a norm layer with running statistics."""
    return isinstance(module, STATISTICAL) and module.running_mean is not None


def measure_statistics(norm: nn.Module, name: str, parts: Iterable[Tensor]) -> None:
    """Give a norm layer in evaluation mode the running statistics of its inputs, as `recalibrate_batchnorm` does.

    Args:
        norm: the layer.
        name: of the layer, for errors.
        parts: what it reads of each batch.

    Raises:
        ValueError: if a part holds too few values.
    """
    averaging = _Averaging(norm, name)
    with averaging.averaging():
        for part in parts:
            averaging.weigh(norm, (part,))
            norm.forward(part)
    norm.eval()


STATISTICAL = (_BatchNorm, _InstanceNorm)


@dataclass
class _Averaging:
    """A norm layer whose running statistics are the average over all calls, by the values that each call holds."""

    norm: Any
    name: str
    values: int = 0

    @contextmanager
    def averaging(self) -> Iterator[None]:
        norm, momentum = self.norm, self.norm.momentum
        norm.train()
        if not norm.training:  # frozen: it keeps its statistics in training too
            yield
            return
        before = [buffer.clone() for buffer in norm.buffers(recurse=False)]
        norm.reset_running_stats()
        handle = norm.register_forward_pre_hook(self.weigh)
        try:
            yield
        finally:
            handle.remove()
            norm.momentum = momentum
            if not self.values:
                for buffer, old in zip(norm.buffers(recurse=False), before, strict=True):
                    buffer.copy_(old)

    def is_finite(self) -> bool:
        """Tell whether all statistics are numbers."""
        return all(bool(buffer.isfinite().all()) for buffer in self.norm.buffers(recurse=False))

    def weigh(self, norm: Any, inputs: tuple[Tensor, ...]) -> None:  # noqa: ANN401  (any of STATISTICAL)
        """Let the next call count by the values it holds.

        Raises:
            ValueError: if it holds one value per channel, whose variance says nothing.
        """
        values = inputs[0].numel() // norm.num_features
        if values == 1 and isinstance(norm, _BatchNorm) and norm.training:
            raise ValueError(
                f"batches: norm layer {self.name!r} must read several values per channel of every batch, found one: "
                "give batches of more samples, and leave out a last one of a single sample"
            )
        self.values += values
        norm.momentum = values / max(self.values, 1)


def _run(model: nn.Module, batches: Iterable[Example], run: Callable[[nn.Module, Example], object]) -> None:
    count = 0
    with torch.no_grad():
        for count, batch in enumerate(batches, start=1):  # noqa: B007  (asked for after the loop)
            with labels_hint():
                run(model, batch)
    if count == 0:
        raise ValueError("batches must yield at least one batch, found none (a generator can be used only once)")
