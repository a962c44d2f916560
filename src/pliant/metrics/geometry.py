"""Where a model lies in weight space, relative to what cutting would make of it."""

from __future__ import annotations

import torch
from torch import nn


@torch.no_grad()
def relative_distance(model: nn.Module, cut: nn.Module) -> float:
    """Return norm_2(theta - theta_cut) / norm_2(theta) over all parameters: 0 where the cut changes nothing.

    Args:
        model: any module.
        cut: the truncated model: the same parameter names and shapes.

    Raises:
        ValueError: if the two do not have the same parameters.

    Reference: Zimmer, Spiegel, Pokutta (2022), relative distance to the pruned model.
    """
    ours, theirs = dict(model.named_parameters()), dict(cut.named_parameters())
    if {n: p.shape for n, p in ours.items()} != {n: p.shape for n, p in theirs.items()}:
        raise ValueError(
            "cut must have the model's parameter names and shapes; pass the result of truncate, not realise"
        )
    removed = sum(float((p.double() - theirs[name].double()).square().sum()) for name, p in ours.items())
    total = sum(float(p.double().square().sum()) for p in ours.values())
    return float((removed / total) ** 0.5) if total > 0 else 0.0
