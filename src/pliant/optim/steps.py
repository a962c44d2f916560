"""Step-size rules: how far a Frank-Wolfe step goes toward its vertex."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from pliant.regions.scaling import nonzero_length
from pliant.regions.vertex import Move, Vertex, lengths
from pliant.spec import register

WholeNorms = Callable[[Sequence[Tensor]], Sequence[Tensor]]


class Lengths(ABC):
    """Norms of points of several shapes, which have no tensors in common."""

    @abstractmethod
    def distance(self) -> Tensor:
        """Return norm_2(theta - v), shape (points,)."""

    @abstractmethod
    def size(self) -> Tensor:
        """Return norm_2(m), shape (points,)."""


@dataclass(frozen=True)
class Situation:
    """What a rule may look at: points of one shape, before the step. The first dimension of every tensor is the point.

    Args:
        weights: the tensors of the points, (points, *shape) each.
        vertices: where the oracle points, one for each of the weights.
        momentum: the direction that the oracle was asked about, shaped like the weights.
        diameter: Euclidean diameters of the regions, shape (points,).
        index: number of steps that each point has taken before this one, shape (points,).
        whole: makes norms of whole tensors of those of the parts that are here; None: the tensors are whole.
        lengths: of points of several shapes; weights, vertices and momentum are empty then.
    """

    weights: Sequence[Tensor]
    vertices: Sequence[Vertex]
    momentum: Sequence[Tensor]
    diameter: Tensor
    index: Tensor
    whole: WholeNorms | None = None
    lengths: Lengths | None = None
    _measures: list[tuple[Tensor, Move]] = field(default_factory=list, init=False, repr=False)

    def distance(self) -> Tensor:
        """Return norm_2(theta - v), shape (points,). Asking for it uses up the vertices."""
        if self.lengths is not None:
            return self.lengths.distance()
        if not self._measures:
            self._measures.extend(v.measure(x) for x, v in zip(self.weights, self.vertices, strict=True))
        return self._together([length for length, _ in self._measures])

    @property
    def moves(self) -> Sequence[Move]:
        """How to move each of the weights, once the rule is done."""
        return [move for _, move in self._measures] or self.vertices

    def size(self) -> Tensor:
        """Return norm_2(m), shape (points,)."""
        if self.lengths is not None:
            return self.lengths.size()
        if self.whole is not None:  # an oracle that saw a part of the momentum would have found a part of its norm
            return self._together([lengths(m, 1) for m in self.momentum])
        pairs = zip(self.momentum, self.vertices, strict=True)
        return self._together([lengths(m, 1) if v.asked is None else v.asked for m, v in pairs])

    def _together(self, norms: Sequence[Tensor]) -> Tensor:
        norms = norms if self.whole is None else self.whole(norms)
        return norms[0] if len(norms) == 1 else torch.linalg.vector_norm(torch.stack(list(norms)), dim=0)


class StepRule(ABC):
    """Gives the factor that the group's lr is multiplied by; the product is clamped to [0, 1].

    `of_lengths` tells whether the factor follows from nothing but `Situation.distance()`, `size()`, `diameter` and
    `index`. Such a rule serves points of different shapes together.
    """

    of_lengths: ClassVar[bool] = False

    @abstractmethod
    def factor(self, now: Situation) -> Tensor | float:
        """Return the factor, a number or a tensor of shape (points,) on the weights' device."""


@register
@dataclass(frozen=True)
class Raw(StepRule):
    """Step size lr."""

    of_lengths: ClassVar[bool] = True

    def factor(self, now: Situation) -> Tensor | float:  # noqa: ARG002  (constant)
        return 1.0


@register
@dataclass(frozen=True)
class DiameterScaled(StepRule):
    """Step size lr / diameter. Reference: Pokutta, Spiegel, Zimmer (2020)."""

    of_lengths: ClassVar[bool] = True

    def factor(self, now: Situation) -> Tensor | float:
        return 1.0 / now.diameter


@register
@dataclass(frozen=True)
class GradientScaled(StepRule):
    """Step size lr * |m| / |theta - v|: the step is as long as SGD's. Reference: Zimmer, Spiegel, Pokutta (2022)."""

    of_lengths: ClassVar[bool] = True

    def factor(self, now: Situation) -> Tensor | float:
        distance = now.distance()
        return torch.where(distance > 0, now.size() / nonzero_length(distance), 0.0)


@register
@dataclass(frozen=True)
class FastGradientScaled(StepRule):
    """Step size lr * |m| / (diameter / 2): like `GradientScaled` near the origin, a pass over the weights cheaper."""

    of_lengths: ClassVar[bool] = True

    def factor(self, now: Situation) -> Tensor | float:
        return now.size() * (2.0 / now.diameter)


class Profile(ABC):
    """How a run's total shrinkage is spread over its steps."""

    @abstractmethod
    def weight(self, index: Tensor, steps: int) -> Tensor:
        """Return the share of step `index` (0 ... steps - 1); the shares of a run sum to 1."""

    @abstractmethod
    def peak(self, steps: int) -> float:
        """Return the largest share of any step."""


@register
@dataclass(frozen=True)
class Linear(Profile):
    """Falls linearly to zero just after the last step."""

    def weight(self, index: Tensor, steps: int) -> Tensor:
        return (steps - index) * (2.0 / (steps * (steps + 1)))

    def peak(self, steps: int) -> float:
        return 2.0 / (steps + 1)


@register
@dataclass(frozen=True)
class Constant(Profile):
    """The same share for every step."""

    def weight(self, index: Tensor, steps: int) -> Tensor:
        return torch.full_like(index, 1.0 / steps)

    def peak(self, steps: int) -> float:
        return 1.0 / steps


@register
@dataclass(frozen=True)
class Cosine(Profile):
    """Falls along half a cosine: 1 + cos(pi (t + 1/2) / steps)."""

    def weight(self, index: Tensor, steps: int) -> Tensor:
        return (1.0 + torch.cos(math.pi * (index + 0.5) / steps)) / steps

    def peak(self, steps: int) -> float:
        return (1.0 + math.cos(0.5 * math.pi / steps)) / steps


@register
@dataclass(frozen=True)
class Shrinkage(StepRule):
    """Step sizes that sum to `total` over the run at lr = 1, whatever its length.

    About exp(-total) of the initial weights is left at the end; the rest is a mixture of vertices. After `steps` steps
    the step size is zero. Steps at a rate of 0, such as the first of a warm-up, do not count.

    Args:
        total: sum of the step sizes, positive; 3 is a good start.
        steps: number of optimizer steps of the run, at least 1.
        profile: how the total is spread.

    Raises:
        ValueError: if total or steps is out of range, or the run is so short that a step size would exceed 1.
    """

    of_lengths: ClassVar[bool] = True

    total: float
    steps: int
    profile: Profile = field(default_factory=Linear)

    def __post_init__(self) -> None:
        if not 0.0 < self.total < math.inf:
            raise ValueError(f"total must be positive and finite, found {self.total!r}")
        if self.steps < 1:
            raise ValueError(f"steps must be at least 1, found {self.steps!r}")
        largest = self.total * self.profile.peak(self.steps)
        if largest > 1.0:
            raise ValueError(
                f"total={self.total} over steps={self.steps} asks for a step size of {largest:.3g}, above 1; "
                "lower total or train for more steps"
            )

    def factor(self, now: Situation) -> Tensor | float:
        share = self.profile.weight(now.index, self.steps)
        return torch.where(now.index < self.steps, self.total * share, 0.0)
