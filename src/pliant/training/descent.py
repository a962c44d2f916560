"""DescentLearner: sweeps of block coordinate descent over all training images."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, final

import torch
from torch.nn import functional as F

from pliant.bcd import BCDError, Progress
from pliant.training.build import judge
from pliant.training.checkpoint import Captured, Stateful
from pliant.training.learner import Learner
from pliant.training.loop import DivergedError
from pliant.training.watch import Outline

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor, nn

    from pliant.bcd import BlockCoordinateDescent
    from pliant.distributed import World
    from pliant.report.rows import MetricsRow
    from pliant.training.build import Data
    from pliant.training.methods.bcd import BCDMethod
    from pliant.training.position import EpochResult, Position
    from pliant.training.recipe import Recipe


@dataclass(frozen=True)
class Sweeping(Captured):
    """A descent and the samples that it sweeps over, which a checkpoint does not hold."""

    bcd: BlockCoordinateDescent
    x: Tensor
    y: Tensor

    @property
    def device(self) -> torch.device:
        """Where the samples are."""
        return self.x.device

    def parts(self) -> Mapping[str, Stateful]:
        """Return the model, whose parameters are W, and all other blocks."""
        return {"model": self.bcd.model, "blocks": self}

    def state_dict(self) -> Any:  # noqa: ANN401  (as Stateful has it)
        """Return all blocks but the model's parameters."""
        return self.bcd.state_dict()

    def load_state_dict(self, state_dict: Any, /) -> None:  # noqa: ANN401
        """Restore them."""
        self.bcd.load_state_dict(state_dict, self.x, self.y)


@final
@dataclass
class DescentLearner(Learner):
    """Trains by block coordinate descent: an epoch is a sweep, and its row is about the compressed model.

    What ends a run, refit and polish, belongs to its last epoch, so that the last row is about the very weights that
    are saved. Losses and accuracies of training are those of a forward pass after the sweep.
    """

    section: BCDMethod
    recipe: Recipe
    data: Data
    sweeping: Sweeping
    progress: Progress

    @classmethod
    def build(cls, section: BCDMethod, recipe: Recipe, data: Data, model: nn.Module, world: World) -> DescentLearner:
        """Build the descent and its samples.

        Raises:
            BCDError: there are several processes, or sets and layers do not fit.
            ChainError: the model is no chain.
        """
        if not world.alone:
            raise BCDError(f"method bcd runs in a single process here, found {world.size}; start it without a launcher")
        return cls(section, recipe, data, Sweeping(section.descent(model), *data.samples()), Progress(0))

    @property
    def model(self) -> nn.Module:
        """The model whose parameters are W."""
        return self.bcd.model

    @property
    def captured(self) -> Sweeping:
        """All blocks; the samples are loaded anew."""
        return self.sweeping

    @property
    def bcd(self) -> BlockCoordinateDescent:
        """The descent."""
        return self.sweeping.bcd

    def outline(self) -> Outline:
        """Return the number of sweeps, each of one step."""
        return Outline(self.recipe.train.epochs, 1, None)

    def begin(self) -> str | None:
        """Scale the weights, set all blocks by a forward pass, and return the set of every layer."""
        self.section.scale(self.bcd.model)
        self.bcd.start(self.sweeping.x, self.sweeping.y)
        problem = self.bcd.problem
        sets = [f"{block.name}: {problem.sets.get(i, 'dense')}" for i, block in enumerate(problem.chain.blocks)]
        return "\n".join(sets) + "\n"

    def catch_up(self, position: Position) -> None:
        """Do nothing: the blocks have their shapes from the start."""

    def learn(
        self,
        position: Position,
        on_step: Callable[[Position], None],
        on_epoch: Callable[[EpochResult, Position], None],
        stop: Callable[[], bool],
    ) -> Position:
        """Sweep to the end, or until `stop()` says so after a sweep."""
        epochs, course = self.recipe.train.epochs, self.section.course()
        x, y = self.sweeping.x, self.sweeping.y
        while not self.is_done(position):
            self.progress = self.bcd.advance(x, y, sweeps=epochs, course=course)
            if self.bcd.done == epochs or self.bcd.converged(course):
                position.evaluations += self.section.finish(self.bcd, x, y, seed=self.recipe.seed)
            self._count(position)
            on_step(position)
            on_epoch(position.finish_epoch(), position)
            if stop():
                break
        return position

    def is_done(self, position: Position) -> bool:
        """Tell whether all sweeps are done, or the residual is small enough."""
        return position.epoch >= self.recipe.train.epochs or self.bcd.converged(self.section.course())

    def saves(self, position: Position) -> bool:
        """After every sweep, or every `train.checkpoint_every` sweeps: the blocks of all images are large."""
        return position.batch == 0 and position.epoch % (self.recipe.train.checkpoint_every or 1) == 0

    def plain_model(self) -> nn.Module:
        """Return the compressed model: its dense twin."""
        return self.bcd.compressed()

    def described(self, row: MetricsRow) -> MetricsRow:
        """Add what the sweep has measured."""
        found = self.progress
        if found.objective is None:
            return row
        dense = judge(self.recipe, self.data, self.bcd.model)
        return replace(
            row, objective=found.objective, gap=self.bcd.gap(), residual=found.residual, dense_accuracy=dense
        )

    @torch.no_grad()
    def _count(self, position: Position) -> None:
        """Take note of a forward pass of the compressed model through all samples."""
        model, chunk = self.bcd.compressed().eval(), self.bcd.problem.chunk
        scores = torch.cat([model(part) for part in self.sweeping.x.split(chunk)])
        position.count(F.cross_entropy(scores, self.sweeping.y), scores, self.sweeping.y, evaluations=0)
        if not math.isfinite(position.mean_loss()):
            raise DivergedError(
                f"the training loss after sweep {self.bcd.done} is not finite; start from smaller weights "
                "(method.start), or lower method.polish.lr"
            )
