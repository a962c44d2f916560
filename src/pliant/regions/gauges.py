"""Gauges: symmetric norms on vectors of magnitudes. Views lift them to tensors.

Every function takes magnitudes of shape (*batch, n), non-negative, and acts on the last dimension.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field

import torch
from torch import Tensor

from pliant.regions import projections
from pliant.regions.scaling import nonzero, nonzero_length
from pliant.spec import register


@dataclass(frozen=True)
class Proportional:
    """The vertex has the `count` largest magnitudes, in proportion: Euclidean norm 1."""

    count: int


@dataclass(frozen=True)
class Flat:
    """The vertex has the `count` largest magnitudes, all 1."""

    count: int


class Gauge(ABC):
    """A symmetric norm on magnitude vectors, with everything that a ball or a penalty needs of it."""

    @abstractmethod
    def at(self, n: int) -> Gauge:
        """Return the gauge for vectors of `n` magnitudes: fractions resolved to counts."""

    @abstractmethod
    def leading(self, n: int) -> int:
        """Return how many of the `n` largest magnitudes suffice to know `dual` and `vertex`."""

    @abstractmethod
    def pattern(self, n: int) -> Proportional | Flat | None:
        """Return how `vertex` weighs `n` magnitudes, for oracles that need not know them all; None: in another way."""

    @abstractmethod
    def value(self, a: Tensor) -> Tensor:
        """Return the norm, shape (*batch,)."""

    @abstractmethod
    def dual(self, a: Tensor) -> Tensor:
        """Return the dual norm, max <v, a> over the unit ball, shape (*batch,)."""

    @abstractmethod
    def vertex(self, a: Tensor) -> Tensor:
        """Return a non-negative maximiser of <v, a> over the unit ball; zero magnitudes get zero."""

    @abstractmethod
    def project(self, a: Tensor, radius: float) -> Tensor:
        """Return the Euclidean projection onto the ball of this radius."""

    @abstractmethod
    def prox(self, a: Tensor, step: float | Tensor) -> Tensor:
        """Return argmin_x 1/2 norm_2(x - a)^2 + step * value(x)."""

    @abstractmethod
    def diameter(self, n: int) -> float:
        """Return the Euclidean diameter of the unit ball in `n` dimensions."""


@register
@dataclass(frozen=True)
class TopK(Gauge):
    """The k-support norm (p = 2) and the gauge of the k-sparse polytope (p = inf).

    The unit ball is conv{v : norm_0(v) <= k, norm_p(v) <= 1}; the dual norm is the l_q norm of the k largest
    magnitudes, 1/p + 1/q = 1. k = 1 is the l1 norm, k = n the l_p norm.

    Args:
        k: an int is a count (a count above n means n); a float in (0, 1] is a fraction of n, at least one.
        p: 2 or infinity.

    Raises:
        ValueError: if k is not a positive count or a fraction in (0, 1], or p is neither 2 nor infinity.

    Reference: Argyriou, Foygel, Srebro (2012); McDonald, Pontil, Stamos (2016).
    """

    k: int | float
    p: float = 2.0
    # Part of equality and hash: 1 == 1.0 in Python, but one atom is not all of them.
    counted: bool = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "counted", isinstance(self.k, int))
        count = isinstance(self.k, int) and not isinstance(self.k, bool) and self.k >= 1
        fraction = isinstance(self.k, float) and 0.0 < self.k <= 1.0
        if not (count or fraction):
            raise ValueError(
                f"k must be an int >= 1 (a count) or a float in (0, 1] (a fraction of the magnitudes), found {self.k!r}"
            )
        if self.p not in {2.0, math.inf}:
            raise ValueError(f"p must be 2 or infinity for TopK, found {self.p!r}; Lp(p) takes any p >= 1")

    def at(self, n: int) -> TopK:
        k = min(self.k if isinstance(self.k, int) else max(1, math.floor(self.k * n + 0.5)), n)
        return self if self.counted and k == self.k else TopK(k, self.p)

    def leading(self, n: int) -> int:
        # The polytope's vertex weighs small and large magnitudes alike, so it asks for accurate ones: all of them.
        return self._count(n) if self.p == 2.0 else n

    def pattern(self, n: int) -> Proportional | Flat | None:
        return Proportional(self._count(n)) if self.p == 2.0 else Flat(self._count(n))

    def value(self, a: Tensor) -> Tensor:
        k = self._count(a.shape[-1])
        if self.p == 2.0:
            return _k_support_value(a, k)
        return torch.maximum(a.amax(-1), a.sum(-1) / k)

    def dual(self, a: Tensor) -> Tensor:
        k = self._count(a.shape[-1])
        top = a if k == a.shape[-1] else a.topk(k, dim=-1).values
        return torch.linalg.vector_norm(top, dim=-1) if self.p == 2.0 else top.sum(-1)

    def vertex(self, a: Tensor) -> Tensor:
        k = self._count(a.shape[-1])
        if k == a.shape[-1]:
            return self._spread(a)
        # By index and never by threshold: ties must not select more than k.
        top, index = a.topk(k, dim=-1, sorted=False)
        return torch.zeros_like(a).scatter(-1, index, self._spread(top))

    def _spread(self, top: Tensor) -> Tensor:
        if self.p == 2.0:
            return top / nonzero_length(torch.linalg.vector_norm(top, dim=-1, keepdim=True))
        return (top > 0).to(top.dtype)

    def project(self, a: Tensor, radius: float) -> Tensor:
        k = self._count(a.shape[-1])
        if self.p == 2.0 and k > 1:
            return projections.onto_k_support_ball(a, k, radius)
        return projections.onto_capped_simplex(a, cap=radius, total=k * radius)

    def prox(self, a: Tensor, step: float | Tensor) -> Tensor:
        k = self._count(a.shape[-1])
        if k == 1:
            return (a - step).clamp_min(0.0)
        if self.p == 2.0:
            return projections.prox_of_k_support(a, k, step)
        return projections.prox_of_capped_sum(a, k, step)

    def diameter(self, n: int) -> float:
        return 2.0 if self.p == 2.0 else 2.0 * math.sqrt(self._count(n))

    def _count(self, n: int) -> int:
        return int(self.at(n).k)


@register
@dataclass(frozen=True)
class Lp(Gauge):
    """The l_p norm of the magnitudes, 1 <= p <= infinity.

    Args:
        p: the exponent, at least 1; `math.inf` is the largest magnitude.

    Raises:
        ValueError: if p < 1.
    """

    p: float

    def __post_init__(self) -> None:
        if not self.p >= 1.0:
            raise ValueError(f"p must be at least 1 (math.inf allowed), found {self.p!r}")

    def at(self, n: int) -> Lp:  # noqa: ARG002  (the same norm in every dimension)
        return self

    def leading(self, n: int) -> int:
        return 1 if self.p == 1.0 else n

    def pattern(self, n: int) -> Proportional | Flat | None:
        patterns: dict[float, Proportional | Flat] = {1.0: Proportional(1), 2.0: Proportional(n), math.inf: Flat(n)}
        return patterns.get(self.p)

    def value(self, a: Tensor) -> Tensor:
        return _lp_norm(a, self.p)

    def dual(self, a: Tensor) -> Tensor:
        return _lp_norm(a, self._conjugate())

    def vertex(self, a: Tensor) -> Tensor:
        if self.p == 1.0:
            return TopK(1).vertex(a)
        if self.p == math.inf:
            return (a > 0).to(a.dtype)
        # Division by the largest first: a ** (q - 1) underflows for p near 1.
        power = (a / nonzero(a.amax(-1, keepdim=True))) ** (self._conjugate() - 1.0)
        return power / nonzero(_lp_norm(power, self.p).unsqueeze(-1))

    def project(self, a: Tensor, radius: float) -> Tensor:
        if self.p == math.inf:
            return a.clamp_max(radius)
        if self.p == 1.0:
            return TopK(1).project(a, radius)
        if self.p == 2.0:
            norm = torch.linalg.vector_norm(a, dim=-1, keepdim=True)
            return a * (radius / nonzero(norm)).clamp_max(1.0)
        return projections.onto_lp_ball(a, self.p, radius)

    def prox(self, a: Tensor, step: float | Tensor) -> Tensor:
        if self.p == 1.0:
            return (a - step).clamp_min(0.0)
        if self.p == 2.0:
            norm = torch.linalg.vector_norm(a, dim=-1, keepdim=True)
            return a * (1.0 - step / nonzero(norm)).clamp_min(0.0)
        # Moreau: the prox of a norm is the residual of the projection onto the dual ball.
        step = float(step)
        return a - Lp(self._conjugate()).project(a, step) if step > 0.0 else a

    def diameter(self, n: int) -> float:
        return 2.0 * n ** max(0.0, 0.5 - 1.0 / self.p)

    def _conjugate(self) -> float:
        if self.p == 1.0:
            return math.inf
        return 1.0 if self.p == math.inf else self.p / (self.p - 1.0)


def _lp_norm(a: Tensor, p: float) -> Tensor:
    if p in {1.0, 2.0, math.inf}:
        return torch.linalg.vector_norm(a, p, dim=-1)
    peak = nonzero(a.detach().amax(-1, keepdim=True))
    return torch.linalg.vector_norm(a / peak, p, dim=-1) * peak.squeeze(-1)


def _k_support_value(a: Tensor, k: int) -> Tensor:
    """Norm^2 = sum_{i<=l} a_i^2 + (sum_{i>l} a_i)^2 / (k - l), l the largest with l = 0 or (k-l) a_l >= the sum."""
    ordered = a.sort(dim=-1, descending=True).values
    tail = ordered.flip(-1).cumsum(-1).flip(-1)[..., :k]
    head = (ordered * ordered).cumsum(-1)[..., :k] - (ordered * ordered)[..., :k]
    count = torch.arange(k, device=a.device)
    free = (k - count).to(a.dtype)
    before = torch.nn.functional.pad(ordered[..., : k - 1], (1, 0), value=math.inf)
    chosen = torch.where(free * before >= tail, count, 0).amax(-1, keepdim=True)
    squared = (head.gather(-1, chosen) + tail.gather(-1, chosen) ** 2 / free[chosen]).squeeze(-1)
    # At 0 the slope of the root is infinite; the gradient must be the subgradient 0 and not NaN.
    zero = squared == 0
    return torch.where(zero, 0.0, torch.where(zero, 1.0, squared).sqrt())
