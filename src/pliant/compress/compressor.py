"""Compressor: select what stays, truncate, realise."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from typing import Any

from torch import nn

from pliant.compress.atoms import check_fraction
from pliant.compress.budgets.budget import Budget
from pliant.compress.cut import Cut, CutError
from pliant.spec import from_spec, to_spec
from pliant.structure.example import Example

_LOG = logging.getLogger(__name__)


class Compressor(ABC):
    """A way to cut models. No method changes the model it is given, nor shares a tensor with it.

    To write one: a frozen dataclass with these three methods, decorated with `pliant.spec.register`;
    `pliant.testing.check_compressor` then checks the laws. What it needs comes by `from pliant.compress import Cut,
    CutError`; the attribute `pliant.compress`, and with it `import pliant.compress as pc`, is the function.
    """

    @abstractmethod
    def select(
        self, model: nn.Module, fraction: float | None = None, *, budget: Budget | None = None, example: Example
    ) -> Cut:
        """Choose the atoms that stay.

        Args:
            model: the trained model.
            fraction: share of the atoms to remove, 0 <= fraction < 1. At least one atom of every layer stays.
            budget: the most that the model may cost after `realise`, such as `Macs(0.5)`, instead of a fraction.
            example: what the model can be called with: a tensor, a sequence of positional arguments, or a mapping of
                keyword arguments such as tokenizers return.

        Raises:
            BudgetError: if the budget cannot be met.
            ValueError: if the fraction is out of range, or not exactly one of fraction and budget is given.
        """

    @abstractmethod
    def truncate(self, model: nn.Module, cut: Cut) -> nn.Module:
        """Return a copy of the same shapes in which the removed atoms are zero; a cut of nothing is the identity.

        Raises:
            CutError: if the cut is another compressor's, or does not fit the model.
        """

    @abstractmethod
    def realise(self, model: nn.Module, cut: Cut) -> nn.Module:
        """Return a physically smaller copy with the outputs of `truncate`.

        Raises:
            CutError: if the cut is another compressor's, or does not fit the model.
        """


def compressor_of(cut: Cut) -> Compressor:
    """Rebuild the compressor that made a cut.

    Raises:
        CutError: if its class is not registered, or the options do not fit it.
    """
    try:
        compressor = from_spec({**cut.options, "type": cut.compressor})
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        hint = "a class of your own is known once its module is imported (pliant export --compressor)"
        raise CutError(f"the cut's compressor {cut.compressor!r} cannot be rebuilt: {error}; {hint}") from error
    if not isinstance(compressor, Compressor):
        raise CutError(f"{cut.compressor!r} is no compressor")
    return compressor


def options_of(compressor: Compressor) -> dict[str, Any]:
    """Return a compressor's options as plain data, as a cut holds them."""
    spec = to_spec(compressor)
    return {name: value for name, value in spec.items() if name != "type"}


def check_kind(compressor: Compressor) -> None:
    """Check what was given as a compressor.

    Raises:
        TypeError: if it is none, for example the class instead of an instance.
    """
    if not isinstance(compressor, Compressor):
        raise TypeError(f"compressor must be a Compressor such as FilterPruning(), found {compressor!r}")


def warn_if_whole(cut: Cut, fraction: float | None, budget: Budget | None = None) -> None:
    """Log a warning if something was to go, but nothing in the model can be cut."""
    if (fraction or budget) and not cut.atoms:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in cut.skipped.items()) or "it has no fitting layer"
        _LOG.warning("%s finds nothing to cut in this model, which stays whole (%s)", cut.compressor, reasons)


def check_request(fraction: float | None, budget: Budget | None) -> float | None:
    """Check what `select` was asked for, and return the fraction.

    Raises:
        ValueError: if the fraction is out of range, both are given, or `budget` is no budget.
    """
    if budget is not None and not isinstance(budget, Budget):
        raise ValueError(f"budget must be a Budget such as Macs(0.5), found {budget!r}")
    if budget is not None and fraction is not None:
        raise ValueError(f"fraction must be None when a budget is given, found fraction={fraction!r} and {budget}")
    return None if fraction is None else check_fraction(fraction)


def check_fits(compressor: Compressor, cut: Cut, atoms: dict[str, int | None]) -> None:
    """Check that a cut is this compressor's and fits a model.

    Args:
        compressor: the compressor in use.
        cut: the cut to apply.
        atoms: layer name -> atoms the model has there, None if it has no such layer; one entry per layer of the cut.

    Raises:
        CutError: if not.
    """
    if cut.compressor != type(compressor).__name__:
        raise CutError(f"the cut was made by {cut.compressor}, it cannot be applied by {type(compressor).__name__}")
    for name, found in atoms.items():
        if found is None:
            raise CutError(f"the cut names the layer {name!r}, which the model does not have or cannot cut")
        if found != cut.atoms[name]:
            raise CutError(f"layer {name!r}: the cut was made for {cut.atoms[name]} atoms, the model has {found}")
