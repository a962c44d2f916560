"""Chooser: a model that is looked at once, however many cuts of it are chosen."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import singledispatch

from torch import nn

from pliant.compress.budgets import Budget
from pliant.compress.compressor import Compressor
from pliant.compress.cut import Cut
from pliant.structure.example import Example


class Chooser(ABC):
    """A compressor before a model. What does not depend on the fraction is found once; the model must not change."""

    @abstractmethod
    def cut(self, fraction: float | None = None, *, budget: Budget | None = None) -> Cut:
        """Return what `select` of the compressor returns for the model."""


@singledispatch
def chooser(compressor: Compressor, model: nn.Module, example: Example) -> Chooser:
    """Return the chooser of a compressor; without one of its own, `select` is called for every cut.

    Args:
        compressor: what is cut and how.
        model: the trained model.
        example: what the model can be called with.
    """
    return _Anew(compressor, model, example)


@dataclass(frozen=True, eq=False)
class _Anew(Chooser):
    compressor: Compressor
    model: nn.Module
    example: Example

    def cut(self, fraction: float | None = None, *, budget: Budget | None = None) -> Cut:
        return self.compressor.select(self.model, fraction, budget=budget, example=self.example)
