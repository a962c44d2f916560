"""Fixed-rank training with orthonormal factors and a well-conditioned core (CondLR)."""

from __future__ import annotations

from typing import Annotated, Literal, final

from pydantic import Field

from pliant.methods.around import Around
from pliant.methods.claim import Claim
from pliant.methods.conditioned import Conditioned, LowRankCores, cores
from pliant.training.methods.built import Method, scheduled
from pliant.training.methods.layers import LayerOptions
from pliant.training.methods.section import Scene
from pliant.training.recipe_section import Momentum, Share


@final
class ConditionedMethod(LayerOptions):
    """SGD on U S V^T of a rank that `fraction` fixes before training; cond(S) stays below `condition`."""

    type: Literal["conditioned"]
    fraction: Share
    condition: Annotated[float, Field(ge=1)] = 1.5
    momentum: Momentum = 0.45

    def claim(self) -> Claim:
        """One ratio: the rank is fixed."""
        return Claim.ONE_RATIO

    def build(self, scene: Scene) -> Method:
        """Build SGD over the factors, with the projections around its step."""
        change = LowRankCores(self.fraction, first=self.first, last=self.last, ignore=tuple(self.ignore))
        model = change.apply(scene.model)
        optimizer = Around(self.sgd(model), [Conditioned(cores(model), self.condition)])
        return scheduled(model, optimizer, self.schedule, scene.steps, change=change)
