"""What every method of a recipe is: a section that says what it claims; most build an optimizer."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from functools import singledispatch
from typing import TYPE_CHECKING

from pliant.training.recipe_section import Section

if TYPE_CHECKING:
    from torch import Tensor, nn

    from pliant.methods import Claim
    from pliant.training.methods.built import Method
    from pliant.training.recipe import DataSection, TrainSection


@dataclass(frozen=True)
class Scene:
    """What a method is built for.

    Args:
        model: of the recipe, its weights drawn, on its device.
        example: what the model can be called with.
        epochs: of the whole run.
        epoch_steps: optimizer steps of an epoch.
        seed: of the run, for methods that draw numbers of their own.
    """

    model: nn.Module
    example: Tensor
    epochs: int
    epoch_steps: int
    seed: int

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole run."""
        return self.epochs * self.epoch_steps


class MethodSection(Section):
    """The `method` section of a recipe.

    A method of this package is a final subclass in a file of its own, with a field ``type: Literal["its-name"]``, and
    one more member of the union in `pliant.training.methods`. One outside derives from `OptimizerSection` and leaves
    ``type`` as it is here: recipes say ``type: "package.module:Class"``.
    """

    type: str

    @abstractmethod
    def claim(self) -> Claim:
        """Return what one run of this method is good for."""


@singledispatch
def check_fit(method: MethodSection, data: DataSection, train: TrainSection) -> None:
    """Check that the rest of a recipe goes with its method; most methods go with everything.

    Raises:
        ValueError: it does not; the message names what is to be set how.
    """
    del method, data, train


class OptimizerSection(MethodSection):
    """A method that takes steps by gradients of batches: an optimizer, its schedule and, at times, a changed model."""

    @abstractmethod
    def build(self, scene: Scene) -> Method:
        """Build optimizer, schedule and, where layers are trained in another form, the changed model.

        No weight of the scene's model is touched, and the global random state stays where it is.
        """
