"""BudgetRecord: what a budget asked for, and what came of it, as plain data."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from pliant.compress.reading import CutError, mapping, text

if TYPE_CHECKING:
    from pliant.compress.budgets.budget import Budget


@dataclass(frozen=True)
class BudgetRecord:
    """The budget that a cut was made for. Costs are in its unit: multiply-accumulates, parameters, seconds.

    Args:
        budget: class name, such as "Macs".
        target: as it was asked: a float is a share of the cost before the cut, a whole number stands for itself.
        allocation: class name of what shared it out, such as "Greedy".
        limit: the largest allowed cost.
        reached: the cost of the realised model.
        dense: the cost before the cut.
    """

    budget: str
    target: float | int
    allocation: str
    limit: float | int
    reached: float | int
    dense: float | int

    @staticmethod
    def of(budget: Budget, dense: float, reached: float) -> BudgetRecord:
        """Return the record of a budget.

        Args:
            budget: the budget.
            dense: the cost before the cut.
            reached: the cost of the realised model.
        """
        return BudgetRecord(
            budget=type(budget).__name__,
            target=budget.target,
            allocation=type(budget.share_out()).__name__,
            limit=_whole(budget.limit(dense)),
            reached=_whole(reached),
            dense=_whole(dense),
        )

    def counted(self, reached: float) -> BudgetRecord:
        """Return the record with what the realised model costs by another count."""
        return replace(self, reached=_whole(reached))

    @property
    def met(self) -> bool:
        """Whether what was reached is within the limit, up to the rounding of seconds."""
        return self.reached <= self.limit * (1.0 + _ROUNDING)

    def to_plain(self) -> dict[str, Any]:
        """Return the record as plain data, for JSON."""
        return asdict(self)

    @staticmethod
    def from_plain(value: object) -> BudgetRecord:
        """Read a record; nothing but data is built.

        Raises:
            CutError: if it is none.
        """
        data = mapping(value, "budget", frozenset(BudgetRecord.__dataclass_fields__))
        numbers = {name: _number(data[name], f"budget: {name}") for name in _NUMBERS}
        return BudgetRecord(
            budget=text(data["budget"], "budget: budget"),
            allocation=text(data["allocation"], "budget: allocation"),
            **numbers,
        )

    def __str__(self) -> str:
        over = "" if self.met else ": over the limit"
        return f"{self.budget}({self.target}) (at most {_text(self.limit)}, reached {_text(self.reached)}{over})"


_ROUNDING = 1e-12
_NUMBERS = ("target", "limit", "reached", "dense")


def _whole(cost: float) -> float | int:
    """Return a count as a count, and seconds as they are."""
    return int(cost) if float(cost).is_integer() else float(cost)


def _number(value: object, what: str) -> float | int:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < _LARGEST:
        raise CutError(f"{what} must be a number of at least 0, found {value!r:.80}")
    return value


_LARGEST = 2.0**200  # larger is no cost; JSON would carry whole numbers of any length


def _text(cost: float) -> str:
    return f"{cost:,.0f}" if cost >= 1 else f"{1e3 * cost:.3g} ms"
