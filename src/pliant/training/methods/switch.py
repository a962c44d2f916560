"""Switch: the model is cut in the middle of training, and training goes on in the smaller one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pliant.compress.carry import move_optimizer
from pliant.methods.factored import Factored

if TYPE_CHECKING:
    from torch import Tensor, nn

    from pliant.compress import Cut, LowRank
    from pliant.training.methods.built import Method


@dataclass(frozen=True)
class Switch:
    """A decomposition after some epochs.

    From there on the decomposed model is trained without penalties, whose work is done. Momentum and schedule go on
    for all that is left as it was; factors start afresh. The run ends as the plain architecture with the factors
    multiplied out, so that the compressor finds the ranks again.

    Args:
        epoch: after so many.
        compressor: what decomposes.
    """

    epoch: int
    compressor: LowRank

    def cut(self, model: nn.Module, example: Tensor) -> Cut:
        """Choose the ranks."""
        return self.compressor.select(model, example=example)

    def perform(self, method: Method, cut: Cut) -> Method:
        """Return the method that goes on in the smaller model; optimizer and scheduler are moved there, in place."""
        change = Factored(self.compressor, cut)
        smaller = change.apply(method.model)
        for group in method.optimizer.param_groups:
            group["penalties"] = ()
        move_optimizer(method.optimizer, method.model, smaller, cut)
        return replace(method, model=smaller, change=change, switch=None, regulariser=None)
