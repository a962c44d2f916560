"""Modes: what the compressed copy of a weight is to the weight."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Tensor

from pliant.bcd.penalties import Penalties
from pliant.sets import Point, WeightSet


class Mode(ABC):
    """How a layer's copy G and its weight W meet."""

    @abstractmethod
    def point(self, weight_set: WeightSet, weight: Tensor, point: Point, penalties: Penalties) -> Point:
        """Return the next copy.

        Args:
            weight_set: that holds the copy.
            weight: W as it is.
            point: the copy as it is.
            penalties: of the sweep.
        """

    @abstractmethod
    def weight(self, weight: Tensor, point: Point) -> Tensor:
        """Return the weight that the layer goes on with."""


@dataclass(frozen=True)
class PenaltyMode(Mode):
    """tau |W - G|^2 / 2 pulls the two together: the objective never rises, and the method converges.

    Args:
        proximal: whether the copy, like the weight, is held by alpha |G - G_k|^2 / 2, as the proof needs.
    """

    proximal: bool = True

    def point(self, weight_set: WeightSet, weight: Tensor, point: Point, penalties: Penalties) -> Point:
        if not self.proximal:
            return weight_set.project(weight, near=point)
        share = penalties.tau / (penalties.tau + penalties.alpha)
        return weight_set.project(point.dense.lerp(weight, share), near=point)

    def weight(self, weight: Tensor, point: Point) -> Tensor:  # noqa: ARG002  (it keeps its own)
        return weight


@dataclass(frozen=True)
class HardMode(Mode):
    """W := G after every step: a proximal step of weight tau + alpha around the compressed weight, then a projection.

    There is no gap, and no descent: the objective may rise.
    """

    def point(self, weight_set: WeightSet, weight: Tensor, point: Point, penalties: Penalties) -> Point:  # noqa: ARG002
        return weight_set.project(weight, near=point)

    def weight(self, weight: Tensor, point: Point) -> Tensor:  # noqa: ARG002  (it takes the copy)
        return point.dense
