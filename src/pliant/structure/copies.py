"""Copies of models that remember nothing of earlier calls."""

from __future__ import annotations

import copy

from torch import nn


def fresh_copy(model: nn.Module) -> nn.Module:
    """Return a copy in the same modes, without what its modules cached.

    Some modules keep what they computed from their parameters in evaluation mode, for the next call (the attention
    biases of LeViT, for one), until they are told to train. A copy with other weights must not use it.

    Args:
        model: left as it is.
    """
    copied = copy.deepcopy(model)
    modes = [(module, module.training) for module in copied.modules()]
    copied.train()
    for module, mode in modes:
        module.training = mode
    return copied
