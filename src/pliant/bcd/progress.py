"""Progress: what a sweep has come to, as plain numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from pliant.bcd.chain import Chain
from pliant.bcd.problem import Points


@dataclass(frozen=True)
class Progress:
    """The state after a sweep; what was not measured is None.

    Args:
        sweep: how many are done.
        objective: F.
        gap: |W - G| / |W| over the compressed layers; 0 without any.
        residual: square root of the squared stationarity residual.
        accuracy: of a forward pass with W.
        compressed_accuracy: of a forward pass with G: the measure of quality.
        loss: a sample, of the same forward pass as the accuracy; of real targets it is all there is.
        compressed_loss: with G.
    """

    sweep: int
    objective: float | None = None
    gap: float | None = None
    residual: float | None = None
    accuracy: float | None = None
    compressed_accuracy: float | None = None
    loss: float | None = None
    compressed_loss: float | None = None

    def __str__(self) -> str:
        numbers = {
            "objective": self.objective,
            "gap": self.gap,
            "residual": self.residual,
            "accuracy": self.accuracy,
            "compressed": self.compressed_accuracy,
            "loss": self.loss,
            "compressed loss": self.compressed_loss,
        }
        known = [f"{name} {value:.4g}" for name, value in numbers.items() if value is not None]
        return f"sweep {self.sweep}: {', '.join(known)}"


def gap(chain: Chain, points: Points) -> float:
    """Return |W - G| / |W| over the compressed layers; 0 without any."""
    pairs = [(chain.blocks[index].weight.detach(), point.dense) for index, point in points.items()]
    size = sum(float(torch.linalg.vector_norm(weight)) ** 2 for weight, _ in pairs)
    return math.sqrt(sum(_distance(weight, dense) ** 2 for weight, dense in pairs) / size) if size else 0.0


def _distance(one: Tensor, other: Tensor) -> float:
    return float(torch.linalg.vector_norm(one - other))
