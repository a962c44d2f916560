"""What torchvision needs before it can be imported beside a torch of another build."""

from __future__ import annotations

import torch


def define_operators() -> torch.library.Library:
    """Define the two operators that it looks for; they are there as long as what is returned."""
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        try:
            library.define(f"{name}(Tensor boxes, Tensor scores, float threshold) -> Tensor")
        except RuntimeError:  # torchvision brought them itself
            break
    return library
