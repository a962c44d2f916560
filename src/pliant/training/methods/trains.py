"""SGD on layers of tensor trains."""

from __future__ import annotations

from typing import Literal, Self, final

from pydantic import model_validator

from pliant.methods.claim import Claim
from pliant.methods.trains import Trains
from pliant.sets import TensorTrainSet
from pliant.training.methods.built import Method, scheduled
from pliant.training.methods.section import Scene
from pliant.training.methods.sgd import SGDOptions
from pliant.training.methods.weight_sets import LayerSet, chosen


@final
class TrainsMethod(SGDOptions):
    """SGD over the cores of tensor trains, which stand in the place of the weights whose layers match.

    `sets` are those of `bcd`, of type tensor-train: the same lines give the same layers the same number of parameters.
    """

    type: Literal["tensor-train"]
    sets: list[LayerSet]

    @model_validator(mode="after")
    def _trains_alone(self) -> Self:
        others = [e.set.type for e in self.sets if e.set is not None and not isinstance(e.set.build(), TensorTrainSet)]
        if others:
            raise ValueError(
                f"sets must be of type tensor-train, whose cores can be trained, found {', '.join(others)}"
            )
        return self

    def claim(self) -> Claim:
        """One ratio: the sets decide it."""
        return Claim.ONE_RATIO

    def build(self, scene: Scene) -> Method:
        """Build SGD over the cores."""
        sets = chosen(self.sets, scene.model)
        change = Trains({name: one for name, one in sets.items() if isinstance(one, TensorTrainSet)})
        model = change.apply(scene.model)
        return scheduled(model, self.sgd(model), self.schedule, scene.steps, change=change)
