"""Block coordinate descent: sets, sweeps, and what ends a run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, final

import torch
from pydantic import Field, model_validator

from pliant.bcd import (
    BCDError,
    BlockCoordinateDescent,
    Constant,
    Course,
    CrossEntropy,
    Geometric,
    HardMode,
    Hinge,
    Loss,
    Mode,
    PenaltyMode,
    Polish,
    Schedule,
    Squared,
)
from pliant.methods.claim import Claim
from pliant.training.methods.section import MethodSection, check_fit
from pliant.training.methods.weight_sets import Count, LayerSet, chosen
from pliant.training.recipe_section import Positive, Section

if TYPE_CHECKING:
    from torch import Tensor, nn

    from pliant.training.recipe import DataSection, TrainSection

LOSSES: dict[str, Loss] = {"squared": Squared(), "hinge": Hinge(), "cross-entropy": CrossEntropy()}
MODES: dict[str, Mode] = {"penalty": PenaltyMode(), "hard": HardMode()}


class GrowthSection(Section):
    """Penalties that are multiplied by these factors every so many sweeps, at most so many times."""

    rho: Positive = 1.0
    gamma: Positive = 1.0
    tau: Positive = 1.0
    every: Count = 10
    times: Annotated[int, Field(ge=0)] = 10

    def build(self) -> Schedule:
        """Return the schedule."""
        return Geometric(self.rho, self.gamma, self.tau, self.every, self.times)


class PolishSection(Section):
    """A training by gradients inside the sets, at the end."""

    epochs: Count = 1
    lr: Positive = 0.001
    batch: Count = 128
    project_every: Count = 1

    def build(self, seed: int) -> Polish:
        """Return the options."""
        return Polish(self.epochs, self.lr, self.batch, self.project_every, seed)

    def steps(self, samples: int) -> int:
        """Return the gradients of a batch that it computes."""
        return self.epochs * -(-samples // self.batch)


@final
class BCDMethod(MethodSection):
    """Block coordinate descent: sweeps over all images without gradients, into compressed weights.

    There are `train.epochs` sweeps. `start` multiplies all weights before the first. Objective, gap and residual are
    measured every `measure_every` sweeps; `tolerance` ends the run early. `refit` is the ridge of a last least-squares
    fit of the last layer, null for none.
    """

    type: Literal["bcd"]
    sets: list[LayerSet]
    rho: Positive = 1.0
    gamma: Positive = 1.0
    tau: Positive = 3.0
    alpha: Positive = 1.0
    loss: Literal["squared", "hinge", "cross-entropy"] = "squared"
    mode: Literal["penalty", "hard"] = "penalty"
    chunk: Count = 1024
    conjugate_steps: Count = 4
    start: Positive = 1.0
    growth: GrowthSection | None = None
    synchronise_every: Annotated[int, Field(ge=0)] = 0
    hard_last: Annotated[int, Field(ge=0)] = 0
    measure_every: Annotated[int, Field(ge=0)] = 1
    tolerance: Annotated[float, Field(ge=0)] = 0.0
    refit: Positive | None = None
    polish: PolishSection | None = None

    @model_validator(mode="before")
    @classmethod
    def _one_length(cls, given: Any) -> Any:  # noqa: ANN401  (whatever the file holds)
        if isinstance(given, dict) and "sweeps" in given:
            raise ValueError("sweeps are what train.epochs counts: set that, and leave sweeps out")
        return given

    @model_validator(mode="after")
    def _course_makes_sense(self) -> Self:
        self.course()
        return self

    def claim(self) -> Claim:
        """One ratio: the sets decide it."""
        return Claim.ONE_RATIO

    def course(self) -> Course:
        """Return the options of the run."""
        schedule = Constant() if self.growth is None else self.growth.build()
        return Course(schedule, self.synchronise_every, self.hard_last, self.measure_every, self.tolerance)

    def descent(self, model: nn.Module) -> BlockCoordinateDescent:
        """Return the descent over a model, whose weights stay as they are.

        Raises:
            ChainError: if the model is no chain.
            SetError: if an entry of the sets matches no layer.
            BCDError: if a refit would leave the last layer's set.
        """
        bcd = BlockCoordinateDescent(
            model,
            chosen(self.sets, model),
            rho=self.rho,
            gamma=self.gamma,
            tau=self.tau,
            alpha=self.alpha,
            loss=LOSSES[self.loss],
            mode=MODES[self.mode],
            chunk=self.chunk,
            conjugate_steps=self.conjugate_steps,
        )
        last = bcd.problem.chain.blocks[-1].name
        if self.refit is not None and last in bcd.copies():
            raise BCDError(
                f"{last}: a refit would leave the set of the last layer; give it set: null, or leave refit out"
            )
        return bcd

    def scale(self, model: nn.Module) -> None:
        """Multiply all weights by `start`."""
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(self.start)

    def finish(self, bcd: BlockCoordinateDescent, x: Tensor, y: Tensor, *, seed: int) -> int:
        """Do what follows the last sweep, and return how many gradients of a batch it took."""
        if self.refit is not None:
            bcd.refit(x, y, ridge=self.refit)
        if self.polish is None:
            return 0
        bcd.polish(x, y, self.polish.build(seed))
        return self.polish.steps(len(x))


@check_fit.register(BCDMethod)
def _(method: BCDMethod, data: DataSection, train: TrainSection) -> None:
    del method
    if data.augment:
        raise ValueError("method bcd sweeps over the training images as they are: set data.augment: false")
    if train.precision != "float32":
        raise ValueError("method bcd solves linear systems: set train.precision: float32")
    if train.compile:
        raise ValueError("method bcd has no backward pass to compile: set train.compile: false")
