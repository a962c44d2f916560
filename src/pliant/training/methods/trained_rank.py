"""Trained rank pruning (TRP) around SGD."""

from __future__ import annotations

from typing import Annotated, Literal, final

from pydantic import Field

from pliant.methods.around import Around
from pliant.methods.claim import Claim
from pliant.methods.trained_rank import TrainedRank
from pliant.training.methods.built import Method, scheduled
from pliant.training.methods.layers import LayerOptions
from pliant.training.methods.section import Scene
from pliant.training.recipe_section import NonNegative


@final
class TrainedRankMethod(LayerOptions):
    """SGD; every `every` steps weights are truncated to a share of their squared `energy`, with a nuclear gradient."""

    type: Literal["trained-rank"]
    every: Annotated[int, Field(ge=1)] = 1
    energy: Annotated[float, Field(gt=0, le=1)] = 0.9
    nuclear: NonNegative = 3e-4
    first: bool = False

    def claim(self) -> Claim:
        """One ratio: the energy decides it."""
        return Claim.ONE_RATIO

    def build(self, scene: Scene) -> Method:
        """Build SGD with the truncations after its step."""
        targets = self.targets(scene)
        maps = [TrainedRank(targets, every=self.every, energy=self.energy, nuclear=self.nuclear)]
        return scheduled(scene.model, Around(self.sgd(scene.model), maps), self.schedule, scene.steps)
