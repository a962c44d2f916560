"""Penalties as a part of the loss: group lasso (SSL) and nuclear norm by their subgradients."""

from __future__ import annotations

from typing import Literal, final

from pliant.methods.around import Around
from pliant.methods.claim import Claim
from pliant.methods.penalties import Subgradient
from pliant.training.methods.built import Method, scheduled
from pliant.training.methods.penalties import PenaltyOptions
from pliant.training.methods.section import Scene


@final
class PenalisedMethod(PenaltyOptions):
    """SGD on the loss plus penalties: group lasso, nuclear norm, or both."""

    type: Literal["penalised"]

    def claim(self) -> Claim:
        """Any ratio."""
        return Claim.ANY_RATIO

    def build(self, scene: Scene) -> Method:
        """Build SGD with the subgradients added."""
        added = Subgradient(self.penalised(scene.model))
        optimizer = Around(self.sgd(scene.model), [added])
        return scheduled(scene.model, optimizer, self.schedule, scene.steps, regulariser=added.penalty)
