"""Euclidean projections and proximal maps on magnitude vectors, by bisection in float64.

These are not on the path of a Frank-Wolfe step, so they may look at values on the host.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

BITS = 60  # halvings: more than a float64 mantissa


class Projectable(Protocol):
    """The part of a gauge that `prox_by_projection` needs."""

    def dual(self, a: Tensor) -> Tensor: ...
    def value(self, a: Tensor) -> Tensor: ...
    def project(self, a: Tensor, radius: float) -> Tensor: ...


def bisect(decreasing: Callable[[Tensor], Tensor], low: Tensor, high: Tensor) -> Tensor:
    """Return the root of a decreasing function in [low, high], elementwise."""
    for _ in range(BITS):
        middle = 0.5 * (low + high)
        above = decreasing(middle) > 0
        low, high = torch.where(above, middle, low), torch.where(above, high, middle)
    return 0.5 * (low + high)


def onto_capped_simplex(a: Tensor, *, cap: float, total: float) -> Tensor:
    """Project onto {0 <= x <= cap, sum(x) <= total}: x = clip(a - nu, 0, cap).

    Args:
        a: magnitudes, (*batch, n).
        cap: upper bound of each entry.
        total: upper bound of their sum; total = cap is the l1 ball.
    """
    work = a.double()
    zero = torch.zeros_like(work[..., :1])
    nu = bisect(lambda nu: (work - nu).clamp(0, cap).sum(-1, keepdim=True) - total, zero, work.amax(-1, keepdim=True))
    # The bisection found the active set; solve for nu on it exactly.
    top, middle = work - nu >= cap, (work > nu) & (work - nu < cap)
    count = middle.sum(-1, keepdim=True)
    # In float64 throughout: a number times a tensor of integers is float32.
    held = (work * middle).sum(-1, keepdim=True) + cap * top.to(work).sum(-1, keepdim=True)
    exact = (held - total) / count.clamp_min(1)
    inside = work.clamp(0, cap).sum(-1, keepdim=True) <= total
    nu = torch.where(inside, zero, torch.where(count > 0, exact, nu))
    return (work - nu).clamp(0, cap).to(a.dtype)


def onto_lp_ball(a: Tensor, p: float, radius: float) -> Tensor:
    """Project onto the l_p ball, 1 < p < inf: x + mu (x / radius)^(p-1) = a, with mu the dual norm of a - x."""
    work = a.double() / radius
    q = p / (p - 1.0)

    def solve(mu: Tensor) -> Tensor:
        return bisect(lambda x: work - x - mu * x ** (p - 1.0), torch.zeros_like(work), work)

    def excess(mu: Tensor) -> Tensor:
        return _power_sum(solve(mu), p) - 1.0

    peak = work.amax(-1, keepdim=True).clamp_min(torch.finfo(work.dtype).tiny)
    high = peak * torch.linalg.vector_norm(work / peak, q, dim=-1, keepdim=True)
    mu = bisect(excess, torch.zeros_like(high), high)
    inside = _power_sum(work, p) <= 1.0
    return torch.where(inside, a, (solve(mu) * radius).to(a.dtype))


def _power_sum(x: Tensor, p: float) -> Tensor:
    return torch.where(x.amax(-1, keepdim=True) > 1.0, torch.inf, (x**p).sum(-1, keepdim=True))


@dataclass(frozen=True)
class _Sorted:
    """Magnitudes in ascending order, (*batch, n), and the sums of their largest ones, (*batch, n + 1)."""

    ascending: Tensor
    largest: Tensor  # largest[..., m] = sum of the m largest

    @staticmethod
    def of(a: Tensor) -> _Sorted:
        ascending = a.sort(dim=-1).values
        sums = ascending.flip(-1).cumsum(-1)
        return _Sorted(ascending, torch.nn.functional.pad(sums, (1, 0)))

    def at_least(self, x: Tensor) -> Tensor:
        return self.ascending.shape[-1] - torch.searchsorted(self.ascending, x, side="left")

    def above(self, x: Tensor) -> Tensor:
        return self.ascending.shape[-1] - torch.searchsorted(self.ascending, x, side="right")

    def sum_of(self, count: Tensor) -> Tensor:
        return self.largest.gather(-1, count)


def _k_support_weights(order: _Sorted, a: Tensor, k: int, lam: Tensor) -> Tensor:
    """Return theta = clip(a u - lam, 0, 1) with sum(theta) = k; theta = 1 on the non-zeros if there are at most k."""
    tiny = torch.finfo(a.dtype).tiny
    kth = order.ascending[..., -k].unsqueeze(-1)
    few = order.above(torch.zeros_like(lam)) <= k
    low = lam / order.ascending[..., -1:].clamp_min(tiny)
    high = (1.0 + lam) / kth.clamp_min(tiny)
    u = high
    for _ in range(2 * BITS):
        full, some = order.at_least((1.0 + lam) / u), order.above(lam / u)
        middle = some - full
        slope = order.sum_of(some) - order.sum_of(full)
        excess = full + u * slope - lam * middle - k
        if bool((few | (excess.abs() <= 1e-14 * k)).all()):
            break
        low, high = torch.where(excess < 0, u, low), torch.where(excess < 0, high, u)
        newton = (k - full + lam * middle) / slope.clamp_min(tiny)
        usable = (middle > 0) & (newton > low) & (newton < high)
        u = torch.where(usable, newton, 0.5 * (low + high))
    return torch.where(few, (a > 0).to(a.dtype), (a * u - lam).clamp(0.0, 1.0))


def _k_support_path(a: Tensor, k: int, target: Callable[[Tensor, Tensor], Tensor], high: Tensor) -> Tensor:
    """Return x(lam) = argmin_x 1/2 norm(x - a)^2 + lam/2 value(x)^2 at the lam where `target(lam, value)` is zero.

    Variational form: x_i = a_i theta_i / (theta_i + lam) with sum(theta) = k, and value^2 = sum_i x_i^2 / theta_i.
    `target` must decrease in lam on [0, high].
    """
    order = _Sorted.of(a)

    def value(lam: Tensor) -> Tensor:
        theta = _k_support_weights(order, a, k, lam)
        return (a * theta.sqrt() / (theta + lam)).nan_to_num(0.0).square().sum(-1, keepdim=True).sqrt()

    lam = bisect(lambda lam: target(lam, value(lam)), torch.zeros_like(high), high)
    theta = _k_support_weights(order, a, k, lam)
    return (a * theta / (theta + lam)).nan_to_num(0.0)


def onto_k_support_ball(a: Tensor, k: int, radius: float) -> Tensor:
    """Project onto the k-support ball, by bisection on the variational form of its norm."""
    peak = a.amax(-1, keepdim=True).double().clamp_min(torch.finfo(torch.float64).tiny)
    work, bound = a.double() / peak, radius / peak
    high = torch.linalg.vector_norm(work.topk(k, dim=-1).values, dim=-1, keepdim=True) / bound
    return (_k_support_path(work, k, lambda _, value: value - bound, high) * peak).to(a.dtype)


def prox_of_k_support(a: Tensor, k: int, step: float | Tensor) -> Tensor:
    """Proximal map of step * norm: 0 if dual(a) <= step, else the x(lam) with lam * value(x(lam)) = step."""
    peak = a.amax(-1, keepdim=True).double().clamp_min(torch.finfo(torch.float64).tiny)
    work, bound = a.double() / peak, step / peak
    dual = torch.linalg.vector_norm(work.topk(k, dim=-1).values, dim=-1, keepdim=True)
    # lam * value(x(lam)) grows from 0 to dual; bisect in s = lam / (1 + lam), which is bounded.
    order = _Sorted.of(work)

    def point(s: Tensor) -> tuple[Tensor, Tensor]:
        lam = s / (1.0 - s).clamp_min(1e-300)
        theta = _k_support_weights(order, work, k, lam)
        x = (work * theta / (theta + lam)).nan_to_num(0.0)
        squared = (work * theta.sqrt() / (theta + lam)).nan_to_num(0.0).square().sum(-1, keepdim=True)
        return x, lam * squared.sqrt()

    one = torch.ones_like(dual)
    s = bisect(lambda s: bound - point(s)[1], torch.zeros_like(one), one)
    return torch.where(dual <= bound, 0.0, point(s)[0] * peak).to(a.dtype)


def prox_by_projection(gauge: Projectable, a: Tensor, step: float | Tensor) -> Tensor:
    """Proximal map of step * norm as the projection onto the ball whose residual has dual norm `step`.

    At the projection x onto the ball of radius s the residual a - x is `dual(a - x)` times a subgradient of the norm
    at x, and that factor falls from dual(a) to 0 as s grows.
    """
    rows = a.double().reshape(-1, a.shape[-1])
    steps = torch.as_tensor(step, dtype=rows.dtype, device=rows.device).expand(rows.shape[0])
    out = [_prox_of_row(gauge, row, float(bound)) for row, bound in zip(rows, steps, strict=True)]
    return torch.stack(out).reshape(a.shape).to(a.dtype)


def _prox_of_row(gauge: Projectable, row: Tensor, step: float) -> Tensor:
    if float(gauge.dual(row)) <= step:
        return torch.zeros_like(row)
    low, high = 0.0, float(gauge.value(row))
    for _ in range(BITS):
        middle = 0.5 * (low + high)
        if float(gauge.dual(row - gauge.project(row, middle))) > step:
            low = middle
        else:
            high = middle
    return gauge.project(row, high)
