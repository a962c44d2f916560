"""Budgets: what the cut model may cost."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace

from torch import nn

from pliant.compress.budgets.allocation import Allocation, BudgetError, Greedy
from pliant.compress.budgets.problem import Term
from pliant.compress.budgets.scene import Scene
from pliant.compress.budgets.terms import WeightTerm
from pliant.compress.predict import predicted_macs
from pliant.structure.example import Example


class Budget(ABC):
    """The most that the physically smaller model may cost.

    Args:
        target: what was asked for: a float is a share of the cost before the cut, a whole number stands for itself.
    """

    target: float | int

    def __str__(self) -> str:
        return f"{type(self).__name__}({self.target})"

    @abstractmethod
    def measure(self, model: nn.Module, example: Example) -> float:
        """Return what a model costs."""

    @abstractmethod
    def limit(self, dense: float) -> float:
        """Return the largest allowed cost.

        Args:
            dense: what the model costs before the cut.
        """

    @abstractmethod
    def terms(self, scene: Scene) -> list[Term]:
        """Return what a model costs, depending on what stays of it."""

    @abstractmethod
    def at_most(self, limit: float) -> Budget:
        """Return the same budget for an absolute cost, whatever the model."""

    @abstractmethod
    def share_out(self) -> Allocation:
        """Return how the budget is shared out over the layers."""


@dataclass(frozen=True)
class Macs(Budget):
    """Multiply-accumulates of one call on the example.

    Args:
        target: a share of those before the cut, 0 < target <= 1, or a whole number of them.
        allocation: how the budget is shared out over the layers.

    Raises:
        BudgetError: if the target is neither.
    """

    target: float | int
    allocation: Allocation = field(default_factory=Greedy)

    def __post_init__(self) -> None:
        check_target("macs", self.target)

    def limit(self, dense: float) -> float:
        return limit_of(self.target, dense)

    def measure(self, model: nn.Module, example: Example) -> float:
        return predicted_macs(model, example)

    def terms(self, scene: Scene) -> list[Term]:
        used = [weight for weight in scene.weights if weight.uses and weight.knobs]
        return [*(WeightTerm(weight, per_entry=0, per_use=1) for weight in used), *scene.products]

    def at_most(self, limit: float) -> Budget:
        return replace(self, target=math.floor(limit))

    def share_out(self) -> Allocation:
        return self.allocation


@dataclass(frozen=True)
class Params(Budget):
    """Parameter entries; shared ones count once.

    Args:
        target: a share of those before the cut, 0 < target <= 1, or a whole number of them.
        allocation: how the budget is shared out over the layers.

    Raises:
        BudgetError: if the target is neither.
    """

    target: float | int
    allocation: Allocation = field(default_factory=Greedy)

    def __post_init__(self) -> None:
        check_target("params", self.target)

    def limit(self, dense: float) -> float:
        return limit_of(self.target, dense)

    def measure(self, model: nn.Module, example: Example) -> float:  # noqa: ARG002  (the interface)
        return sum(parameter.numel() for parameter in model.parameters())

    def terms(self, scene: Scene) -> list[Term]:
        return [WeightTerm(weight, per_entry=1, per_use=0) for weight in scene.weights if weight.knobs]

    def at_most(self, limit: float) -> Budget:
        return replace(self, target=math.floor(limit))

    def share_out(self) -> Allocation:
        return self.allocation


def one_budget(budget: Budget | None, *, macs: float | None, params: float | None) -> Budget | None:
    """Return the budget that was asked for, in one of three ways.

    Args:
        budget: itself.
        macs: short for `Macs(macs)`.
        params: short for `Params(params)`.

    Raises:
        BudgetError: if more than one is given.
    """
    given = [budget, None if macs is None else Macs(macs), None if params is None else Params(params)]
    found = [one for one in given if one is not None]
    if len(found) > 1:
        raise BudgetError(f"budget, macs and params exclude each other, found {' and '.join(map(str, found))}")
    return found[0] if found else None


def check_target(name: str, target: object) -> None:
    """Check a target at construction.

    Raises:
        BudgetError: unless it is a share, 0 < target <= 1, or a whole number of at least 1.
    """
    whole = isinstance(target, int) and not isinstance(target, bool) and target >= 1
    if not whole and not (isinstance(target, float) and 0.0 < target <= 1.0):
        raise BudgetError(
            f"{name} must be a share that may stay, 0 < {name} <= 1.0 (0.5 allows half), or a whole number of at least "
            f"1, found {target!r}"
        )


def limit_of(target: float, dense: float) -> float:
    """Return the largest allowed cost: a float is a share, a whole number stands for itself."""
    return target if isinstance(target, int) else target * dense
