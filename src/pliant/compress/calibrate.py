"""Repair after a cut: new running statistics for the norm layers, without gradients."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from pliant.structure.norms import Example, call


@dataclass(frozen=True)
class Inputs:
    """The inputs of batches (inputs, labels), for what needs no labels; can be iterated as often as the batches.

    Args:
        batches: an iterable of pairs.
    """

    batches: Iterable[Any]

    def __iter__(self) -> Iterator[Tensor]:
        for inputs, *_ in self.batches:
            yield inputs


def recalibrate_batchnorm(model: nn.Module, batches: Iterable[Example]) -> nn.Module:
    """Return a copy of the model whose running statistics are those of these batches.

    The statistics of every batch and instance norm that has any are reset and become the plain average over the
    batches. Only those layers run in training mode (dropout stays off); modes, momentum and everything else are kept.

    Args:
        model: left as it is.
        batches: what the model can be called with, each a tensor or a sequence of positional arguments; training data.

    Raises:
        ValueError: if there is no batch.
    """
    copied = copy.deepcopy(model)
    norms = [m for m in copied.modules() if isinstance(m, _BatchNorm | _InstanceNorm) and m.running_mean is not None]
    if not norms:
        return copied
    modes = [(module, module.training) for module in copied.modules()]
    momenta = [norm.momentum for norm in norms]
    copied.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.train()
    _accumulate(copied, norms, batches)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    for module, mode in modes:
        module.training = mode
    return copied


def _accumulate(model: nn.Module, norms: list[Any], batches: Iterable[Example]) -> None:
    count = 0
    with torch.no_grad():
        for count, batch in enumerate(batches, start=1):
            for norm in norms:
                # None is torch's own cumulative average, which instance norm does not know.
                norm.momentum = None if isinstance(norm, _BatchNorm) else 1.0 / count
            try:
                call(model, batch)
            except TypeError as error:
                error.add_note("batches of (inputs, labels) go in as pliant.compress.Inputs(batches)")
                raise
    if count == 0:
        raise ValueError("batches must yield at least one batch, found none (a generator can be used only once)")
