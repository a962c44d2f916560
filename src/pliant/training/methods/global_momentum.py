"""Global sparse momentum SGD (GSM)."""

from __future__ import annotations

from typing import Literal, final

from pliant.methods.around import Around
from pliant.methods.claim import Claim
from pliant.methods.global_momentum import GlobalSparseMomentum
from pliant.training.methods.built import Method, scheduled
from pliant.training.methods.layers import LayerOptions
from pliant.training.methods.section import Scene
from pliant.training.recipe_section import K


@final
class GlobalMomentumMethod(LayerOptions):
    """SGD in which only the `active` most important weights (a count, or a share) see their gradient in a step."""

    type: Literal["global-momentum"]
    active: K = 0.1
    last: bool = True

    def claim(self) -> Claim:
        """One ratio: the share of the active weights decides it."""
        return Claim.ONE_RATIO

    def build(self, scene: Scene) -> Method:
        """Build SGD with the choice before its step."""
        targets = self.targets(scene)
        optimizer = Around(self.sgd(scene.model), [GlobalSparseMomentum(targets, self.active)])
        return scheduled(scene.model, optimizer, self.schedule, scene.steps)
