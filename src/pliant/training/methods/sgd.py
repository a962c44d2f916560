"""SGD with momentum and weight decay: the baseline of every table, and the base of other methods."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, final

import torch

from pliant.methods.claim import Claim
from pliant.training.methods.built import Method, Schedule, scheduled
from pliant.training.methods.section import OptimizerSection, Scene
from pliant.training.recipe_section import Momentum, NonNegative

if TYPE_CHECKING:
    from torch import nn


class SGDOptions(OptimizerSection):
    """What SGD and the methods on top of it have in common."""

    lr: NonNegative = 0.05
    momentum: Momentum = 0.9
    weight_decay: NonNegative = 5e-4
    schedule: Schedule = "linear"

    def sgd(self, model: nn.Module) -> torch.optim.SGD:
        """Return torch's SGD over all parameters of a model."""
        return torch.optim.SGD(model.parameters(), lr=self.lr, momentum=self.momentum, weight_decay=self.weight_decay)


@final
class SGDMethod(SGDOptions):
    """torch's SGD."""

    type: Literal["sgd"]

    def claim(self) -> Claim:
        """Any ratio."""
        return Claim.ANY_RATIO

    def build(self, scene: Scene) -> Method:
        """Build SGD over all parameters."""
        return scheduled(scene.model, self.sgd(scene.model), self.schedule, scene.steps)
