"""Ball and Penalty: a gauge seen through a view."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pliant.regions.gauges import Gauge
from pliant.regions.region import Region, X, pack, tensors
from pliant.regions.scaling import in_units, to_unit_peak, upcast
from pliant.regions.vertex import Vertex, across, full_precision
from pliant.regions.views import Shape, View, exact_maximiser
from pliant.spec import register


@register
@dataclass(frozen=True)
class Ball(Region):
    """The ball {x : gauge(view(x)) <= radius}.

    float16 and bfloat16 tensors are computed with in float32; results have the dtype of the argument. Norms have the
    shape of the view's batch dimensions, usually ().

    Args:
        gauge: the norm on magnitudes.
        view: how tensors become magnitudes.
        radius: positive and finite, in units of the norm.

    Raises:
        TypeError: if `gauge` is no Gauge or `view` no View.
        ValueError: if the radius is not positive and finite; in the methods, if a point has not `arity` tensors.
    """

    gauge: Gauge
    view: View
    radius: float

    def __post_init__(self) -> None:
        _check_parts(self.gauge, self.view)
        if not 0.0 < self.radius < math.inf:
            raise ValueError(f"radius must be positive and finite, found {self.radius!r}")

    @property
    def arity(self) -> int:
        return self.view.arity

    def value(self, x: X) -> Tensor:
        return _norm(self.gauge.at(self._count(x)).value, self.view, x)

    def dual(self, g: X) -> Tensor:
        gauge = self.gauge.at(self._count(g))
        parts, peak = _scaled(g, [1.0 / scale for scale in self.view.scales], self.view.batch)
        split = self.view.split(*parts, leading=gauge.leading(self._count(g)))
        return gauge.dual(split.magnitudes) * peak

    def vertex(self, g: X, state: dict[str, Any] | None = None) -> tuple[Vertex, ...]:
        gauge = self.gauge.at(self._count(g))
        parts = in_units(tensors(g), [1.0 / scale for scale in self.view.scales])
        with full_precision(parts[0].device):  # products of 16 bits find no subspace
            if state is None:
                unit = exact_maximiser(self.view, gauge, parts)
            else:
                unit = self.view.maximiser(gauge, *parts, memory=state)
        return tuple(part.times(-self.radius / scale) for part, scale in zip(unit, self.view.scales, strict=True))

    def project(self, x: X) -> X:
        gauge = self.gauge.at(self._count(x))
        parts, peak = _scaled(x, self.view.scales, self.view.batch)
        split = self.view.split(*parts, leading=self._count(x))
        a = split.magnitudes * peak.unsqueeze(-1)
        nearest = gauge.project(a, self.radius)
        # Rounding must not leave the result outside.
        nearest = nearest * (self.radius / gauge.value(nearest).clamp_min(self.radius)).unsqueeze(-1)
        # Squares of `a` may leave the range of float32. A NaN compares False: it is not inside.
        inside = gauge.value(split.magnitudes) * peak <= self.radius
        moved = self._unscaled(x, split.rebuild(nearest))
        kept = zip(tensors(moved), tensors(x), strict=True)
        return pack(x, [torch.where(across(inside, old.ndim), old, new) for new, old in kept])

    def diameter(self, shape: Shape | Sequence[Shape]) -> float:
        shapes: Sequence[Any] = [shape] if self.arity == 1 and (not shape or isinstance(shape[0], int)) else shape
        n = self.view.count(*shapes)
        return self.radius * self.gauge.at(n).diameter(n) / min(self.view.scales)

    def scale_into(self, x: X) -> X:
        value = self.value(x)
        factor = torch.where(value <= self.radius, 1.0, self.radius / value)  # NaN stays NaN
        # In the computing precision: a factor rounded to float16 may be 0 or far too large.
        return pack(x, [(upcast(part) * across(factor, part.ndim)).to(part.dtype) for part in tensors(x)])

    def contains(self, x: X, *, tol: float = 1e-6) -> bool:
        return bool((self.value(x) <= self.radius * (1.0 + tol)).all())

    def gap(self, x: X, g: X) -> Tensor:
        pairs = zip(tensors(x), tensors(g), strict=True)
        dims = self.view.batch
        products = [(upcast(a) * upcast(b)).reshape(*a.shape[:dims], -1).sum(-1) for a, b in pairs]
        return torch.stack(products).sum(0) + self.radius * self.dual(g)

    def _count(self, x: Tensor | Sequence[Tensor]) -> int:
        parts = tensors(x)
        if len(parts) != self.view.arity:
            raise ValueError(f"a point of this region is {self.view.arity} tensors together, found {len(parts)}")
        return self.view.count(*[part.shape[self.view.batch :] for part in parts])

    def _unscaled(self, like: X, parts: Sequence[Tensor]) -> X:
        triples = zip(parts, self.view.scales, tensors(like), strict=True)
        return pack(like, [(part if s == 1.0 else part / s).to(old.dtype) for part, s, old in triples])


@register
@dataclass(frozen=True)
class Penalty:
    """The regulariser weight * gauge(view(x)).

    Args:
        gauge: the norm on magnitudes.
        view: how tensors become magnitudes.
        weight: at least 0.

    Raises:
        TypeError: if `gauge` is no Gauge or `view` no View.
        ValueError: if the weight is negative or not finite.
    """

    gauge: Gauge
    view: View
    weight: float

    def __post_init__(self) -> None:
        _check_parts(self.gauge, self.view)
        if not 0.0 <= self.weight < math.inf:
            raise ValueError(f"weight must be at least 0 and finite, found {self.weight!r}")

    def value(self, x: Tensor | Sequence[Tensor]) -> Tensor:
        """Return weight * gauge(view(x)), differentiable in x."""
        n = self.view.count(*[part.shape[self.view.batch :] for part in tensors(x)])
        return self.weight * _norm(self.gauge.at(n).value, self.view, x)

    def prox(self, x: X, step: float | Tensor) -> X:
        """Return argmin_z 1/2 norm_2(z - x)^2 + step * value(z).

        Args:
            x: the point.
            step: the step size, usually the learning rate, at least 0.
        """
        parts, peak = _scaled(x, self.view.scales, self.view.batch)
        n = self.view.count(*[part.shape[self.view.batch :] for part in parts])
        split = self.view.split(*parts, leading=n)
        shrunk = split.rebuild(self.gauge.at(n).prox(split.magnitudes * peak.unsqueeze(-1), step * self.weight))
        triples = zip(shrunk, self.view.scales, tensors(x), strict=True)
        return pack(x, [(part / s).to(old.dtype) for part, s, old in triples])


def _check_parts(gauge: object, view: object) -> None:
    if not isinstance(gauge, Gauge):
        raise TypeError(f"gauge must be a Gauge such as TopK(k) or Lp(p), found {gauge!r}")
    if not isinstance(view, View):
        raise TypeError(f"view must be a View such as Entries() or Filters(), found {view!r}")


def _scaled(x: Tensor | Sequence[Tensor], scales: Sequence[float], batch: int) -> tuple[list[Tensor], Tensor]:
    return to_unit_peak(in_units(tensors(x), scales), batch)


def _norm(norm: Any, view: View, x: Tensor | Sequence[Tensor]) -> Tensor:  # noqa: ANN401  (Gauge.value or Gauge.dual)
    parts, peak = _scaled(x, view.scales, view.batch)
    result: Tensor = norm(view.magnitudes(*parts)) * peak
    return result
