"""Recurrent layers: the matrix products that they are."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def step_by_step(model: nn.Module) -> Iterator[None]:
    """Let the recurrent layers of a model run as matrix products, instead of as one fused operator that hides them."""
    if not any(isinstance(module, nn.RNNBase) for module in model.modules()):
        yield
        return
    before = torch.backends.mkldnn.set_flags(_enabled=False)  # its context manager warns of flags that nobody set
    try:
        with torch.backends.cudnn.flags(enabled=False):
            yield
    finally:
        torch.backends.mkldnn.set_flags(_enabled=before[0])
