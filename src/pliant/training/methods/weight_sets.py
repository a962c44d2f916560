"""Sets of weights in a recipe, and which layers they belong to."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import Field, model_validator
from torch import nn

from pliant.sets import (
    EntryBudget,
    EqualRanks,
    FilterSparseSet,
    NMSparseSet,
    RankSet,
    SetError,
    SparseSet,
    TensorTrainSet,
    WeightSet,
)
from pliant.tensor_train import Paired, Reading, Separate
from pliant.training.recipe_section import K, Section

if TYPE_CHECKING:
    from collections.abc import Sequence

Count = Annotated[int, Field(ge=1)]
READINGS: dict[str, Reading] = {"paired": Paired(), "separate": Separate()}


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
    """Tensor trains of one rank, or with so many entries: a count, or a share of the weight's own.

    `reading` is how a weight becomes a tensor: every mode a factor of the outputs and one of the inputs, or apart.
    """

    type: Literal["tensor-train"]
    rank: Count | None = None
    entries: K | None = None
    reading: Literal["paired", "separate"] = "paired"

    @model_validator(mode="after")
    def _one_bound(self) -> Self:
        if (self.rank is None) == (self.entries is None):
            raise ValueError(f"give either rank or entries, found {self.rank!r} and {self.entries!r}")
        return self

    def build(self) -> WeightSet:
        ranks = EntryBudget(self.entries or 1.0) if self.rank is None else EqualRanks(self.rank)
        return TensorTrainSet(ranks, READINGS[self.reading])


_Set = Annotated[_Sparse | _FilterSparse | _NMSparse | _Rank | _TensorTrain, Field(discriminator="type")]


class LayerSet(Section):
    """The set of the weights whose layers match, such as `features.*`; the first that matches wins.

    Without a set, or with null, they stay dense.
    """

    layers: str = "*"
    set: _Set | None = None


def chosen(entries: Sequence[LayerSet], model: nn.Module) -> dict[str, WeightSet]:
    """Return the set of every layer that has one.

    Raises:
        SetError: if an entry matches no layer that no earlier entry matches.
    """
    found: dict[str, WeightSet] = {}
    left = [name for name, layer in model.named_modules() if isinstance(layer, nn.Linear | nn.Conv2d)]
    for entry in entries:
        matched = [name for name in left if fnmatchcase(name, entry.layers)]
        if not matched:
            raise SetError(f"sets: {entry.layers!r} matches no layer that is left; these are: {', '.join(left)}")
        left = [name for name in left if name not in matched]
        if entry.set is not None:
            found |= dict.fromkeys(matched, entry.set.build())
    return found
