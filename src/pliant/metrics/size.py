"""How large a model is: parameters, non-zero parameters, MACs and bytes."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from pliant.metrics.accuracy import eval_mode
from pliant.structure.norms import Example, call


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

    Convolutions and matrix products count; element-wise work and normalisation do not. Fused attention is switched
    off while counting, for the counter does not see inside it.
    """
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(value=False)
    try:
        counter = FlopCounterMode(display=False)
        with eval_mode(model), torch.enable_grad(), sdpa_kernel(SDPBackend.MATH), counter:
            call(model, example)
    finally:
        torch.backends.mha.set_fastpath_enabled(value=fast)
    return int(counter.get_total_flops()) // 2
