"""How large a model is: parameters, non-zero parameters, MACs and bytes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from pliant.metrics.modules import split_by_module
from pliant.metrics.uncounted import UNCOUNTED
from pliant.structure.attention import slow_path
from pliant.structure.copies import fresh_copy
from pliant.structure.example import Example, call
from pliant.structure.recurrent import step_by_step
from pliant.structure.untouched import eval_mode


@dataclass(frozen=True)
class Size:
    """The size of a model.

    Args:
        parameters: number of parameter entries; shared parameters count once.
        nonzero: those of them that are not zero.
        macs: multiply-accumulate operations of one call on the example, the whole batch together.
        bytes: memory of parameters and buffers.
    """

    parameters: int
    nonzero: int
    macs: int
    bytes: int


def size(model: nn.Module, example: Example) -> Size:
    """Measure a model, which is left as it was.

    Args:
        model: any module.
        example: what the model can be called with; its batch size counts.
    """
    parameters = list(model.parameters())
    state = chain(parameters, model.buffers())
    return Size(
        parameters=sum(p.numel() for p in parameters),
        nonzero=sum(int(torch.count_nonzero(p.detach())) for p in parameters),
        macs=count_macs(model, example),
        bytes=sum(t.numel() * t.element_size() for t in state),
    )


def count_macs(model: nn.Module, example: Example) -> int:
    """Count the multiply-accumulates of one call in evaluation mode: half the FLOPs of torch's own counter.

    Convolutions, products of matrices and vectors, bilinear forms and Euclidean distances of pairs count; element-wise
    work, sums, normalisation, resampling, look-ups, sparse tensors and Fourier transforms do not. Fused attention and
    fused recurrent layers are switched off while counting, for the counter does not see inside them.
    """
    return macs_of_one_call(fresh_copy(model), example)


def macs_of_one_call(model: nn.Module, example: Example) -> int:
    """Count as `count_macs` does on a model that may keep what it remembers of the call."""
    with _counting(model) as counter:
        call(model, example)
    return int(counter.get_total_flops()) // 2


def macs_by_module(model: nn.Module, example: Example) -> dict[str, int]:
    """Split the multiply-accumulates of `count_macs` over the innermost modules ("" is the model itself)."""
    model = fresh_copy(model)
    with _counting(model) as counter:
        flops = split_by_module(model, lambda: call(model, example), lambda: int(counter.get_total_flops()))
    return {name: count // 2 for name, count in flops.items()}


@contextmanager
def _counting(model: nn.Module) -> Iterator[FlopCounterMode]:
    counter = FlopCounterMode(display=False, custom_mapping=UNCOUNTED)
    math = sdpa_kernel(SDPBackend.MATH)
    with eval_mode(model), torch.enable_grad(), slow_path(), math, step_by_step(model), counter:
        yield counter
