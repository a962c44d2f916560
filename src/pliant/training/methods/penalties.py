"""What a recipe can say about penalties, and the library's objects for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import Field, model_validator

from pliant.methods.penalties import Early, GroupLasso, InputLasso, NuclearNorm, Penalised, Term, penalised
from pliant.training.methods.sgd import SGDOptions
from pliant.training.recipe_section import NonNegative, Section

if TYPE_CHECKING:
    from torch import nn


class GroupLassoSection(Section):
    """Filters, each weighted by the root of its size; `alpha` is the share of the single weights."""

    weight: NonNegative
    alpha: Annotated[float, Field(ge=0, le=1)] = 0.0


class WeightSection(Section):
    """A penalty that is nothing but its weight."""

    weight: NonNegative


class EarlySection(Section):
    """A factor on the penalties of the first layers."""

    layers: int = Field(ge=0)
    factor: NonNegative


class PenaltyOptions(SGDOptions):
    """SGD with penalties: on filters, on input channels, on singular values.

    `first: false` leaves the first layer alone; `early` makes the penalties of the first layers smaller.
    """

    filters: GroupLassoSection | None = None
    inputs: WeightSection | None = None
    nuclear: WeightSection | None = None
    order: Literal["filters-first", "rank-first"] = "filters-first"
    first: bool = True
    early: EarlySection | None = None
    ignore: list[str] = Field(default_factory=list)

    @model_validator(mode="after")
    def _something_is_penalised(self) -> Self:
        if self.filters is None and self.inputs is None and self.nuclear is None:
            raise ValueError("at least one of filters, inputs and nuclear must be given, found none of them")
        return self

    def penalised(self, model: nn.Module) -> tuple[Penalised, ...]:
        """Return the penalised weights of a model, their penalties in the order asked for."""
        terms: list[Term] = []
        if self.filters is not None:
            terms.append(GroupLasso(self.filters.weight, self.filters.alpha))
        if self.inputs is not None:
            terms.append(InputLasso(self.inputs.weight))
        if self.nuclear is not None:
            rank: Term = NuclearNorm(self.nuclear.weight)
            terms.insert(len(terms) if self.order == "filters-first" else 0, rank)
        early = None if self.early is None else Early(self.early.layers, self.early.factor)
        return penalised(model, terms, first=self.first, early=early, ignore=self.ignore)
