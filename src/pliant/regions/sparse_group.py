"""SparseGroupLasso: zero filters, and zero weights inside the others."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor

from pliant.regions.ball import Penalty
from pliant.regions.gauges import TopK
from pliant.regions.region import X, tensors
from pliant.regions.views import Entries, Filters
from pliant.spec import register


@register
@dataclass(frozen=True)
class SparseGroupLasso:
    """The regulariser of filters and single weights, with the groups weighted by the root of their size.

        value(w) = weight * [ (1 - alpha) * sqrt(P) * sum_n norm_2(w_n) + alpha * norm_1(w) ]

    over the filters w_n of P weights each; alpha = 0 is the group lasso. Its proximal map is exactly that of the single
    weights followed by that of the filters:

        v = soft(w, step * weight * alpha)
        z_n = max(0, 1 - step * weight * (1 - alpha) * sqrt(P) / norm_2(v_n)) * v_n

    Args:
        weight: at least 0.
        alpha: share of the single weights, in [0, 1].
        view: which of the weight's axes are filters.

    Raises:
        ValueError: if a number is out of its range.

    Reference: Simon, Friedman, Hastie and Tibshirani, "A Sparse-Group Lasso" (2013); Alvarez and Salzmann,
    "Learning the Number of Neurons in Deep Networks" (2016).
    """

    weight: float
    alpha: float = 0.0
    view: Filters = field(default_factory=Filters)

    def __post_init__(self) -> None:
        if not 0.0 <= self.weight < math.inf:
            raise ValueError(f"weight must be at least 0 and finite, found {self.weight!r}")
        if not 0.0 <= self.alpha <= 1.0:
            raise ValueError(f"alpha must be in [0, 1], found {self.alpha!r}")

    def value(self, x: Tensor | Sequence[Tensor]) -> Tensor:
        """Return the value, differentiable in x."""
        entries, filters = self._parts(x)
        return entries.value(x) + filters.value(x)

    def prox(self, x: X, step: float | Tensor) -> X:
        """Return argmin_z 1/2 norm_2(z - x)^2 + step * value(z).

        Args:
            x: the weight.
            step: the step size, usually the learning rate, at least 0.
        """
        entries, filters = self._parts(x)
        inner = entries.prox(x, step) if self.alpha > 0 else x
        return filters.prox(inner, step) if self.alpha < 1 else inner

    def _parts(self, x: Tensor | Sequence[Tensor]) -> tuple[Penalty, Penalty]:
        (weight,) = tensors(x)
        size = math.prod(weight.shape[self.view.batch :]) // self.view.count(weight.shape[self.view.batch :])
        entries = Penalty(TopK(1), Entries(self.view.batch), self.weight * self.alpha)
        return entries, Penalty(TopK(1), self.view, self.weight * (1.0 - self.alpha) * math.sqrt(size))
