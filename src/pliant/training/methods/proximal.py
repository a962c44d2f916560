"""Penalties by their proximal maps, and the second system's mid-training decomposition."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal, Self, final

from pydantic import Field, model_validator

from pliant.compress import Energy, LowRank, SquaredEnergy
from pliant.methods.claim import Claim
from pliant.methods.penalties import penalised_groups
from pliant.optim import ProximalSGD
from pliant.training.methods.built import Method, scheduled
from pliant.training.methods.penalties import PenaltyOptions
from pliant.training.methods.section import Scene, check_fit
from pliant.training.methods.switch import Switch
from pliant.training.recipe_section import Section

if TYPE_CHECKING:
    from pliant.training.recipe import DataSection, TrainSection


class ReloadSection(Section):
    """After `epoch` epochs the model is decomposed at this share of energy, and training goes on in the small one."""

    epoch: int = Field(ge=1)
    energy: Annotated[float, Field(gt=0, le=1)] = 0.9
    squared: bool = False


@final
class ProximalMethod(PenaltyOptions):
    """SGD, then proximal maps every `prox_every` steps or every epoch (Alvarez and Salzmann); leaves exact zeros."""

    type: Literal["proximal"]
    prox_every: Annotated[int, Field(ge=1)] | Literal["epoch"] = 1
    reload: ReloadSection | None = None

    @model_validator(mode="after")
    def _reload_needs_rank(self) -> Self:
        if self.reload is not None and self.nuclear is None:
            raise ValueError("reload decomposes the layers, which needs nuclear: {weight: ...} to have made them so")
        return self

    def claim(self) -> Claim:
        """Any ratio; with `reload`, training goes on after the cut."""
        return Claim.ANY_RATIO if self.reload is None else Claim.RETRAINED

    def build(self, scene: Scene) -> Method:
        """Build ProximalSGD over the penalised weights and all others."""
        self.check_reload(scene.epochs)
        every = scene.epoch_steps if self.prox_every == "epoch" else self.prox_every
        optimizer = ProximalSGD(
            penalised_groups(scene.model, self.penalised(scene.model)),
            lr=self.lr,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            prox_every=every,
        )
        options = {"switch": self._switch(), "regulariser": optimizer.penalty}
        return scheduled(scene.model, optimizer, self.schedule, scene.steps, **options)

    def check_reload(self, epochs: int) -> None:
        """Check that there are epochs on both sides of the reload.

        Raises:
            ValueError: there are none after it.
        """
        if self.reload is not None and self.reload.epoch >= epochs:
            raise ValueError(f"method.reload.epoch must be below train.epochs={epochs}, found {self.reload.epoch}")

    def _switch(self) -> Switch | None:
        if self.reload is None:
            return None
        rule = SquaredEnergy(self.reload.energy) if self.reload.squared else Energy(self.reload.energy)
        return Switch(self.reload.epoch, LowRank(rule=rule, ignore=tuple(self.ignore)))


@check_fit.register(ProximalMethod)
def _(method: ProximalMethod, data: DataSection, train: TrainSection) -> None:
    del data
    method.check_reload(train.epochs)
