"""Adaptive: dual averaging in a diagonal metric that follows the squares of the gradients (RAMDA)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from pliant.optim.proximal import Regulariser
from pliant.spec import register


@register
@dataclass(frozen=True)
class Adaptive:
    """The metric D = (sum of weighted squared gradients)^(1/3) + epsilon, and how its proximal problem is solved.

        Z  =  argmin_z  <G, z> + 1/2 <z - W_0, D (z - W_0)> + a psi(z)

    has no closed form where psi is no sum over entries. It is solved inexactly, by proximal gradient steps of length
    1 / max D from the weights of now: each leaves exact zeros, and a step of training changes the problem but little.

    Args:
        epsilon: added to D, positive.
        iterations: proximal gradient steps, at least 1; without a penalty the solution is exact.

    Raises:
        ValueError: if a number is out of its range.

    Reference: Huang and Lee, "Regularized adaptive momentum dual averaging with an efficient inexact subproblem solver
    for training structured neural networks" (2024).
    """

    epsilon: float = 1e-6
    iterations: int = 10

    def __post_init__(self) -> None:
        if not 0.0 < self.epsilon < math.inf:
            raise ValueError(f"epsilon must be positive and finite, found {self.epsilon!r}")
        if isinstance(self.iterations, bool) or not isinstance(self.iterations, int) or self.iterations < 1:
            raise ValueError(f"iterations must be a number of steps of at least 1, found {self.iterations!r}")

    def solve(self, state: Mapping[str, Any], now: Tensor, penalties: Sequence[Regulariser]) -> Tensor:
        """Return Z.

        Args:
            state: of the optimizer: "anchor" W_0, "total" G, "weight" a, "squares".
            now: the weights to start from.
            penalties: psi, mapped one after the other.
        """
        anchor, total, weight = state["anchor"], state["total"], state["weight"]
        metric = state["squares"].pow(1.0 / 3.0) + self.epsilon
        if not penalties or not now.numel():
            return anchor - total / metric
        length = 1.0 / metric.amax()
        z = now
        for _ in range(self.iterations):
            z = z - length * (total + metric * (z - anchor))
            for penalty in penalties:
                z = penalty.prox(z, length * weight)
        return z
