"""Spectral (nuclear) weight decay around SGD."""

from __future__ import annotations

from typing import Literal, final

from pliant.methods.around import Around
from pliant.methods.claim import Claim
from pliant.methods.spectral_decay import SpectralDecay
from pliant.training.methods.built import Method, scheduled
from pliant.training.methods.layers import LayerOptions
from pliant.training.methods.section import Scene
from pliant.training.recipe_section import NonNegative


@final
class SpectralDecayMethod(LayerOptions):
    """SGD, after whose step every singular value loses lr * spectral_decay; `weight_decay` is the ordinary one."""

    type: Literal["spectral-decay"]
    spectral_decay: NonNegative

    def claim(self) -> Claim:
        """Any ratio."""
        return Claim.ANY_RATIO

    def build(self, scene: Scene) -> Method:
        """Build SGD with the decay after its step."""
        targets = self.targets(scene)
        optimizer = Around(self.sgd(scene.model), [SpectralDecay(targets, self.spectral_decay)])
        return scheduled(scene.model, optimizer, self.schedule, scene.steps)
