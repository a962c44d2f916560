"""The section of a recipe for block coordinate descent, and the run that it describes."""

from __future__ import annotations

from collections.abc import Callable
from fnmatch import fnmatchcase
from typing import Annotated, Literal, Self, final

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from pliant.bcd.course import Course
from pliant.bcd.descent import BlockCoordinateDescent
from pliant.bcd.errors import BCDError
from pliant.bcd.losses import CrossEntropy, Hinge, Loss, Squared
from pliant.bcd.modes import HardMode, Mode, PenaltyMode
from pliant.bcd.penalties import Constant, Geometric, Schedule
from pliant.bcd.polish import Polish
from pliant.bcd.progress import Progress
from pliant.sets import (
    EntryBudget,
    EqualRanks,
    FilterSparseSet,
    NMSparseSet,
    RankSet,
    SparseSet,
    TensorTrainSet,
    WeightSet,
)
from pliant.training.recipe_section import K, Positive, Section

Count = Annotated[int, Field(ge=1)]
LOSSES: dict[str, Loss] = {"squared": Squared(), "hinge": Hinge(), "cross-entropy": CrossEntropy()}
MODES: dict[str, Mode] = {"penalty": PenaltyMode(), "hard": HardMode()}


class _Sparse(Section):
    """The k largest entries stay."""

    type: Literal["sparse"]
    k: K

    def build(self) -> WeightSet:
        return SparseSet(self.k)


class _FilterSparse(Section):
    """The k largest filters stay."""

    type: Literal["filters"]
    k: K

    def build(self) -> WeightSet:
        return FilterSparseSet(self.k)


class _NMSparse(Section):
    """n of m entries stay."""

    type: Literal["n-of-m"]
    n: Count
    m: Count

    def build(self) -> WeightSet:
        return NMSparseSet(self.n, self.m)


class _Rank(Section):
    """Matrices of bounded rank."""

    type: Literal["rank"]
    rank: Count

    def build(self) -> WeightSet:
        return RankSet(self.rank)


class _TensorTrain(Section):
    """Tensor trains of one rank, or with so many entries: a count, or a share of the weight's own."""

    type: Literal["tensor-train"]
    rank: Count | None = None
    entries: K | None = None

    @model_validator(mode="after")
    def _one_bound(self) -> Self:
        if (self.rank is None) == (self.entries is None):
            raise ValueError(f"give either rank or entries, found {self.rank!r} and {self.entries!r}")
        return self

    def build(self) -> WeightSet:
        if self.rank is not None:
            return TensorTrainSet(EqualRanks(self.rank))
        return TensorTrainSet(EntryBudget(self.entries or 1.0))


_Set = Annotated[_Sparse | _FilterSparse | _NMSparse | _Rank | _TensorTrain, Field(discriminator="type")]


class LayerSet(Section):
    """The set of the weights whose layers match, such as `features.*`; the first that matches wins, null is dense."""

    layers: str = "*"
    set: _Set | None


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


@final
class BCDMethod(Section):
    """Block coordinate descent: no gradients, no batches. `sweeps` stands in for epochs.

    `start` multiplies all weights before the first sweep. `refit` is the ridge of a last least-squares fit of the last
    layer, null for none.
    """

    type: Literal["bcd"]
    sets: list[LayerSet]
    sweeps: Count = 100
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

    def course(self) -> Course:
        """Return the options of the run."""
        schedule = Constant() if self.growth is None else self.growth.build()
        return Course(schedule, self.synchronise_every, self.hard_last, self.measure_every, self.tolerance)

    def build(self, model: nn.Module) -> BlockCoordinateDescent:
        """Scale the weights of a model and return the descent over them."""
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(self.start)
        return BlockCoordinateDescent(
            model,
            self.chosen(model),
            rho=self.rho,
            gamma=self.gamma,
            tau=self.tau,
            alpha=self.alpha,
            loss=LOSSES[self.loss],
            mode=MODES[self.mode],
            chunk=self.chunk,
            conjugate_steps=self.conjugate_steps,
        )

    def chosen(self, model: nn.Module) -> dict[str, WeightSet]:
        """Return the set of every layer that has one.

        Raises:
            BCDError: if an entry matches no layer that no earlier entry matches.
        """
        found: dict[str, WeightSet] = {}
        left = [name for name, layer in model.named_modules() if isinstance(layer, nn.Linear | nn.Conv2d)]
        for entry in self.sets:
            matched = [name for name in left if fnmatchcase(name, entry.layers)]
            if not matched:
                raise BCDError(f"sets: {entry.layers!r} matches no layer that is left; these are: {', '.join(left)}")
            left = [name for name in left if name not in matched]
            if entry.set is not None:
                found |= dict.fromkeys(matched, entry.set.build())
        return found


def run(
    method: BCDMethod,
    model: nn.Module,
    samples: tuple[Tensor, Tensor],
    *,
    seed: int = 0,
    evaluate: tuple[Tensor, Tensor] | None = None,
    on_sweep: Callable[[Progress], None] = lambda _: None,
    stop: Callable[[], bool] = lambda: False,
) -> BlockCoordinateDescent:
    """Train a model in place as a recipe says, up to its last step; `compressed` of the result is the outcome.

    Args:
        method: the section.
        model: a chain.
        samples: all inputs and labels.
        seed: of the order of samples in the polish.
        evaluate: inputs and labels that the accuracies are measured on.
        on_sweep: called after every sweep.
        stop: asked after every sweep; a run that is stopped is neither refitted nor polished.
    """
    bcd = method.build(model)
    bcd.fit(*samples, sweeps=method.sweeps, course=method.course(), evaluate=evaluate, on_sweep=on_sweep, stop=stop)
    if stop():
        return bcd
    if method.refit is not None:
        bcd.refit(*samples, ridge=method.refit)
    if method.polish is not None:
        bcd.polish(*samples, method.polish.build(seed))
    return bcd
