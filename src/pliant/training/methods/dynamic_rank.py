"""Dynamical low-rank training (DLRT) around SGD."""

from __future__ import annotations

from typing import Annotated, Literal, final

from pydantic import Field

from pliant.methods.around import Around
from pliant.methods.claim import Claim
from pliant.methods.dynamic_rank import DynamicRank
from pliant.training.methods.built import Method, scheduled
from pliant.training.methods.layers import LayerOptions
from pliant.training.methods.section import Scene
from pliant.training.recipe_section import Momentum, Share


@final
class DynamicRankMethod(LayerOptions):
    """SGD along the manifold of low-rank matrices; ranks follow from the relative error of every truncation.

    `largest` bounds the rank, as a share of the full one; with `tolerance: 0.0` the rank is fixed there.
    """

    type: Literal["dynamic-rank"]
    momentum: Momentum = 0.1
    tolerance: Share = 0.1
    largest: Annotated[float, Field(gt=0, le=1)] = 1.0

    def claim(self) -> Claim:
        """One ratio: the tolerance decides it."""
        return Claim.ONE_RATIO

    def build(self, scene: Scene) -> Method:
        """Build SGD with the retraction after its step."""
        targets = self.targets(scene)
        maps = [DynamicRank(targets, self.tolerance, self.largest)]
        return scheduled(scene.model, Around(self.sgd(scene.model), maps), self.schedule, scene.steps)
