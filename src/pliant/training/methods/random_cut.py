"""Gradients at random cuts around another method, with any compressor of the sweep section."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Literal, final

from pydantic import Field

from pliant.methods.claim import Claim
from pliant.methods.operators import operator_of
from pliant.methods.random_cut import RandomCut
from pliant.training.compressors import build_compressor
from pliant.training.methods.built import Method
from pliant.training.methods.penalised import PenalisedMethod
from pliant.training.methods.section import OptimizerSection, Scene
from pliant.training.methods.sfw import SFWMethod
from pliant.training.methods.sgd import SGDMethod
from pliant.training.methods.spectral_decay import SpectralDecayMethod
from pliant.training.own_section import OrOwn
from pliant.training.recipe_section import Share
from pliant.training.recipe_sweep import TrainingCompressorSpec


@final
class RandomCutMethod(OptimizerSection):
    """Another method whose gradients are those of the model cut at a random fraction; one evaluation a step.

    One of `compressors` and one of `fractions` are drawn in every step; 0.0 is the whole model. The share `start` of
    the run comes before the first cut. `inner` is the method that takes the steps.
    """

    type: Literal["random-cut"]
    inner: Annotated[
        SGDMethod | SFWMethod | PenalisedMethod | SpectralDecayMethod | OptimizerSection, OrOwn(OptimizerSection)
    ]
    compressors: Annotated[list[TrainingCompressorSpec], Field(min_length=1)]
    fractions: list[Share] = Field(default_factory=lambda: [0.0, 0.3, 0.5, 0.7], min_length=1)
    start: Share = 0.0

    def claim(self) -> Claim:
        """Any ratio."""
        return Claim.ANY_RATIO

    def build(self, scene: Scene) -> Method:
        """Build the inner method, and random cuts around its optimizer."""
        method = self.inner.build(scene)
        compressors = map(build_compressor, self.compressors)
        operators = [operator_of(compressor, scene.model, scene.example) for compressor in compressors]
        draws = {"seed": scene.seed, "start": round(self.start * scene.steps)}
        optimizer = RandomCut(method.optimizer, method.model, operators, tuple(self.fractions), **draws)
        return replace(method, optimizer=optimizer)
