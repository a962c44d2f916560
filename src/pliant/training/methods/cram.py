"""CrAM around SGD, with any compressor of the sweep section."""

from __future__ import annotations

from typing import Annotated, Literal, final

from pydantic import Field

from pliant.methods.claim import Claim
from pliant.methods.cram import CrAM, Cramming
from pliant.methods.operators import operator_of
from pliant.training.compressors import build_compressor
from pliant.training.methods.built import Method, scheduled
from pliant.training.methods.section import Scene
from pliant.training.methods.sgd import SGDOptions
from pliant.training.recipe_section import NonNegative, Share
from pliant.training.recipe_sweep import TrainingCompressorSpec


@final
class CrAMMethod(SGDOptions):
    """SGD on the mean of the gradients of the dense and the compressed model; two gradient evaluations a step.

    `fractions`: one of them is drawn in every step. `share`: of the compressed model's gradient; 0.5 is CrAM+, 1.0
    plain CrAM. `normalised`: whether `ascent` is a length, instead of a factor on the gradient.
    """

    type: Literal["cram"]
    compressor: TrainingCompressorSpec
    fractions: list[Share] = Field(default_factory=lambda: [0.5, 0.7, 0.9], min_length=1)
    ascent: NonNegative = 0.05
    normalised: bool = False
    share: Annotated[float, Field(ge=0, le=1)] = 0.5

    def claim(self) -> Claim:
        """Any ratio."""
        return Claim.ANY_RATIO

    def build(self, scene: Scene) -> Method:
        """Build CrAM around SGD."""
        operator = operator_of(build_compressor(self.compressor), scene.model, scene.example)
        cramming = Cramming(tuple(self.fractions), self.ascent, self.normalised, self.share, scene.seed)
        optimizer = CrAM(self.sgd(scene.model), scene.model, operator, cramming)
        return scheduled(scene.model, optimizer, self.schedule, scene.steps)
