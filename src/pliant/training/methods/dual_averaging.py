"""Regularised dual averaging (RMDA) with the penalties of the other penalised methods."""

from __future__ import annotations

from typing import Annotated, Literal, final

from pydantic import Field

from pliant.methods.claim import Claim
from pliant.methods.penalties import penalised_groups
from pliant.optim import Adaptive, DualAveraging
from pliant.training.methods.built import Method, scheduled
from pliant.training.methods.penalties import PenaltyOptions
from pliant.training.methods.section import Scene
from pliant.training.recipe_section import Positive, Section


class AdaptiveSection(Section):
    """A metric that follows the squares of the gradients (RAMDA), and proximal gradient steps of its inner problem."""

    epsilon: Positive = 1e-6
    iterations: Annotated[int, Field(ge=1)] = 10


@final
class DualAveragingMethod(PenaltyOptions):
    """Dual averaging; its zeros are exact and stay.

    `stages`: of equal length, each starting anew from the weights that it finds. `settle`: share of the run, at its
    end, in which momentum fades, so that the weights become the proximal point with all its zeros.
    """

    type: Literal["dual-averaging"]
    stages: Annotated[int, Field(ge=1)] = 1
    settle: Annotated[float, Field(ge=0, le=1)] = 0.25
    adaptive: AdaptiveSection | None = None

    def claim(self) -> Claim:
        """One ratio: the weights of the penalties decide it."""
        return Claim.ONE_RATIO

    def build(self, scene: Scene) -> Method:
        """Build dual averaging over the penalised weights and all others."""
        optimizer = DualAveraging(
            penalised_groups(scene.model, self.penalised(scene.model)),
            lr=self.lr,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            restart_every=None if self.stages == 1 else -(-scene.steps // self.stages),
            adaptive=None if self.adaptive is None else Adaptive(self.adaptive.epsilon, self.adaptive.iterations),
            settle_after=round((1.0 - self.settle) * scene.steps) if self.settle else None,
        )
        return scheduled(scene.model, optimizer, self.schedule, scene.steps)
