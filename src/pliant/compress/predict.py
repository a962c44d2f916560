"""What a realised model will cost, without running it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from pliant.metrics.size import count_macs, macs_of_one_call
from pliant.structure.copies import fresh_copy
from pliant.structure.example import Example, mapped


@dataclass(frozen=True)
class Work:
    """The multiply-accumulates of one call.

    Args:
        macs: how many.
        fixed: whether shapes settle them. If not, other weights may call for another number: a mixture of experts
            sends rows elsewhere once its gates are cut, so that what a cut saves must be counted on the cut model.
    """

    macs: int
    fixed: bool

    def after(self, saved: int, realised: Callable[[], nn.Module], example: Example) -> int:
        """Return what is left of the work in a cut model.

        Args:
            saved: by its layers, each called as often as before.
            realised: returns the cut model; not called where `saved` tells.
            example: what the model can be called with.
        """
        return self.macs - saved if self.fixed else count_macs(realised(), example)


def work_of(model: nn.Module, example: Example) -> Work:
    """Count the MACs of a model on shapes alone; where it needs values to run, on the example itself.

    Args:
        model: left as it is; a copy runs, for some models keep tensors of a run on themselves.
        example: what it can be called with.
    """
    try:
        on_meta = mapped(example, lambda leaf: leaf.to("meta") if isinstance(leaf, Tensor) else leaf)
        return Work(macs_of_one_call(fresh_copy(model).to("meta"), on_meta), fixed=True)
    except Exception:  # noqa: BLE001  (the model's own code may do anything without values)
        return Work(count_macs(model, example), fixed=False)


def predicted_macs(realised: nn.Module, example: Example) -> int:
    """Return the MACs alone of `work_of`."""
    return work_of(realised, example).macs
