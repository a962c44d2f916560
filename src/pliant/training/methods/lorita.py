"""LoRITa: SGD with weight decay on chains of factors."""

from __future__ import annotations

from typing import Annotated, Literal, final

from pydantic import Field

from pliant.methods.claim import Claim
from pliant.methods.lorita import LoRITa
from pliant.training.methods.built import Method, scheduled
from pliant.training.methods.layers import LayerOptions
from pliant.training.methods.section import Scene


@final
class LoRITaMethod(LayerOptions):
    """Every weight is trained as a product of `depth` factors, whose `weight_decay` makes it low-rank."""

    type: Literal["lorita"]
    depth: Annotated[int, Field(ge=2)] = 2

    def claim(self) -> Claim:
        """Any ratio."""
        return Claim.ANY_RATIO

    def build(self, scene: Scene) -> Method:
        """Build SGD over the factors."""
        change = LoRITa(self.depth, first=self.first, last=self.last, ignore=tuple(self.ignore))
        model = change.apply(scene.model)
        return scheduled(model, self.sgd(model), self.schedule, scene.steps, change=change)
