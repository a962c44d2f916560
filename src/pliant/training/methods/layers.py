"""What methods that act on the matrices of some layers have in common: SGD's options, and which layers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from pliant.methods.targets import matrix_targets
from pliant.training.methods.sgd import SGDOptions

if TYPE_CHECKING:
    from pliant.methods.targets import Target
    from pliant.training.methods.section import Scene


class LayerOptions(SGDOptions):
    """SGD, and the convolutions and linear layers that a method acts on.

    `first` and `last`: whether the first layer and the classifier are among them; `ignore`: patterns of names of layers
    that are not.
    """

    first: bool = True
    last: bool = False
    ignore: list[str] = Field(default_factory=list)

    def targets(self, scene: Scene) -> tuple[Target, ...]:
        """Return the weights of these layers as matrices."""
        return matrix_targets(scene.model, first=self.first, last=self.last, ignore=self.ignore)
