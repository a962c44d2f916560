"""What a realised model will cost, without running it."""

from __future__ import annotations

import copy

from torch import Tensor, nn

from pliant.metrics.size import count_macs
from pliant.structure.example import Example, mapped


def predicted_macs(realised: nn.Module, example: Example) -> int:
    """Count the MACs of a model on shapes alone; where it needs values to run, on the example itself.

    Args:
        realised: left as it is; copies run, for some models keep tensors of a run on themselves.
        example: what it can be called with.
    """
    try:
        on_meta = mapped(example, lambda leaf: leaf.to("meta") if isinstance(leaf, Tensor) else leaf)
        return count_macs(copy.deepcopy(realised).to("meta"), on_meta)
    except Exception:  # noqa: BLE001  (the model's own code may do anything without values)
        return count_macs(copy.deepcopy(realised), example)
