"""Copies of models that remember nothing of earlier calls."""

from __future__ import annotations

import copy

from torch import nn

from pliant.sharding import is_sharded


def fresh_copy(model: nn.Module) -> nn.Module:
    """Return a copy in the same modes, without what its modules cached.

    Some modules keep what they computed from their parameters in evaluation mode, for the next call (the attention
    biases of LeViT, for one), until they are told to train. A copy with other weights must not use it.

    Args:
        model: left as it is.

    Raises:
        ValueError: if its parameters are sharded, since such a model cannot be copied.
    """
    held = [name for name, p in model.named_parameters() if is_sharded(p)]
    if held:
        raise ValueError(
            f"a model whose parameters are sharded, such as {held[0]}, cannot be copied, as this must. Plan and cut "
            "the model before `fully_shard`; a plan goes over by Plan.from_json(sharded_model, plan.to_json())"
        )
    copied = copy.deepcopy(model)
    modes = [(module, module.training) for module in copied.modules()]
    copied.train()
    for module, mode in modes:
        module.training = mode
    return copied
