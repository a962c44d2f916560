"""GradientLearner: steps of an optimizer on batches."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, final

from pliant import atomic
from pliant.compress import Cut
from pliant.optim import check_ranks
from pliant.training.build import PRECISIONS
from pliant.training.checkpoint import Trainee
from pliant.training.learner import Learner
from pliant.training.loop import fit
from pliant.training.methods.section import OptimizerSection, Scene
from pliant.training.watch import Outline

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

    from pliant.data import Batches
    from pliant.distributed import World
    from pliant.report.rows import MetricsRow
    from pliant.training.build import Data
    from pliant.training.folder import RunFolder
    from pliant.training.methods.built import Method
    from pliant.training.position import EpochResult, Position
    from pliant.training.recipe import Recipe


@final
@dataclass
class GradientLearner(Learner):
    """Trains by a method that takes steps, in one process or as one of several."""

    recipe: Recipe
    folder: RunFolder
    data: Data
    batches: Batches
    method: Method
    world: World

    @classmethod
    def build(  # noqa: PLR0917  (all that a run is made of)
        cls, section: OptimizerSection, recipe: Recipe, folder: RunFolder, data: Data, model: nn.Module, world: World
    ) -> GradientLearner:
        """Build batches and method for a model; the folder is not touched."""
        batches = data.train_batches(recipe.data, recipe.seed)
        method = section.build(Scene(model, data.example(), recipe.train.epochs, len(batches), recipe.seed))
        check_ranks(method.optimizer)
        return cls(recipe, folder, data, batches, method, world)

    @property
    def model(self) -> nn.Module:
        """The method's model, in the form in which it is trained."""
        return self.method.model

    @property
    def captured(self) -> Trainee:
        """Model, optimizer and scheduler."""
        return Trainee(self.method.model, self.method.optimizer, self.method.scheduler)

    def outline(self) -> Outline:
        """Return the number of epochs and batches, and how to read the shrinkage."""
        shrinkage = None if self.method.plan is None else lambda: self.method.shrinkage() or 0.0
        return Outline(self.recipe.train.epochs, len(self.batches), shrinkage)

    def begin(self) -> str | None:
        """Scale the weights as the plan asks, and return the plan."""
        plan = self.method.plan
        if plan is None:
            return None
        plan.scale_weights(self.method.start)
        moved = plan.make_feasible()
        notes = [f"scaled into its region: {', '.join(m.names)} from {m.value:.4g} to {m.radius:.4g}" for m in moved]
        return "\n".join([str(plan), *notes]) + "\n"

    def catch_up(self, position: Position) -> None:
        """Make the model that was trained at a position, where the method switches to another one on the way."""
        switch = self.method.switch
        if switch is not None and (position.epoch, position.batch) > (switch.epoch, 0):
            cut = Cut.from_json(self.folder.cut.read_text(encoding="utf-8"))
            self.method = switch.perform(self.method, cut)

    def learn(
        self,
        position: Position,
        on_step: Callable[[Position], None],
        on_epoch: Callable[[EpochResult, Position], None],
        stop: Callable[[], bool],
    ) -> Position:
        """Train to the end, over a switch if the method has one, or until `stop()` says so after a step."""
        switch = self.method.switch
        if switch is not None:
            position = self._stretch(position, switch.epoch, on_step, on_epoch, stop)
            if position.epoch < switch.epoch:
                return position
            cut = switch.cut(self.method.model, self.data.example())
            self.world.on_main(lambda: atomic.write_text(self.folder.cut, cut.to_json()))
            self.method = switch.perform(self.method, cut)
        return self._stretch(position, self.recipe.train.epochs, on_step, on_epoch, stop)

    def _stretch(
        self,
        position: Position,
        epochs: int,
        on_step: Callable[[Position], None],
        on_epoch: Callable[[EpochResult, Position], None],
        stop: Callable[[], bool],
    ) -> Position:
        return fit(
            self.method.model,
            self.method.optimizer,
            self.batches,
            epochs=epochs,
            scheduler=self.method.scheduler,
            autocast=PRECISIONS[self.recipe.train.precision],
            compiled=self.recipe.train.compile,
            position=position,
            on_step=on_step,
            on_epoch=lambda result: on_epoch(result, position),
            stop=stop,
            world=self.world,
        )

    def is_done(self, position: Position) -> bool:
        """Tell whether all epochs are done."""
        return position.epoch >= self.recipe.train.epochs

    def saves(self, position: Position) -> bool:
        """After every epoch, and after every `train.checkpoint_every` batches of one."""
        every = self.recipe.train.checkpoint_every
        return position.batch == 0 or (every is not None and position.batch % every == 0)

    def plain_model(self) -> nn.Module:
        """Return the trained model, or a collapsed copy."""
        return self.method.plain_model()

    def described(self, row: MetricsRow) -> MetricsRow:
        """Add learning rate, shrinkage and the value of the regulariser."""
        method = self.method
        shrinkage, kept, penalty = method.shrinkage(), method.kept(), method.penalty()
        return replace(row, lr=method.lr(), shrinkage=shrinkage, kept=kept, penalty=penalty)
