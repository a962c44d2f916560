"""Spectral (nuclear) weight decay around SGD."""

from __future__ import annotations

from typing import Literal, final

from pydantic import Field

from pliant.methods.around import Around
from pliant.methods.claim import Claim
from pliant.methods.spectral_decay import SpectralDecay
from pliant.methods.targets import matrix_targets
from pliant.training.methods.built import Method, scheduled
from pliant.training.methods.section import Scene
from pliant.training.methods.sgd import SGDOptions
from pliant.training.recipe_section import NonNegative


@final
class SpectralDecayMethod(SGDOptions):
    """SGD, after whose step every singular value loses lr * spectral_decay; `weight_decay` is the ordinary one beside.

    `first` and `last`: whether the first layer and the classifier decay in this way as well.
    """

    type: Literal["spectral-decay"]
    spectral_decay: NonNegative
    first: bool = True
    last: bool = False
    ignore: list[str] = Field(default_factory=list)

    def claim(self) -> Claim:
        """Any ratio."""
        return Claim.ANY_RATIO

    def build(self, scene: Scene) -> Method:
        """Build SGD with the decay after its step."""
        targets = matrix_targets(scene.model, first=self.first, last=self.last, ignore=self.ignore)
        optimizer = Around(self.sgd(scene.model), [SpectralDecay(targets, self.spectral_decay)])
        return scheduled(scene.model, optimizer, self.schedule, scene.steps)
