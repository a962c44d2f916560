"""Putting tensors and modules in the places of others."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pliant.structure.attention import fit_fused_path


def in_format_of(x: Tensor, like: Tensor) -> Tensor:
    """Return `x` in the memory format of `like` (channels last, or contiguous)."""
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    last = formats.get(like.ndim)
    if last is not None and like.is_contiguous(memory_format=last) and not like.is_contiguous():
        return x.contiguous(memory_format=last)
    return x.contiguous()


def replace(model: nn.Module, names: Sequence[str], modules: Sequence[nn.Module]) -> nn.Module:
    """Put modules in the places of others, in place; return the model, or what takes its own place, that of name ""."""
    root = model
    for name, module in zip(names, modules, strict=True):
        if not name:
            root = module
            continue
        parent_name, _, child = name.rpartition(".")
        parent = model.get_submodule(parent_name)
        setattr(parent, child, module)
        if isinstance(parent, nn.TransformerEncoderLayer):
            fit_fused_path(parent)
    return root
