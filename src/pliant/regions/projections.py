"""Euclidean projections and proximal maps on magnitude vectors, by bisection and Newton steps in float64.

These are not on the path of a Frank-Wolfe step, so they may look at values on the host.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

BITS = 60  # halvings: more than a float64 mantissa


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
    peak = work.amax(-1, keepdim=True).clamp_min(torch.finfo(work.dtype).tiny)
    high = peak * torch.linalg.vector_norm(work / peak, p / (p - 1.0), dim=-1, keepdim=True)
    mu = _multiplier(work, p, high)
    inside = _log_power_sum(work, p) <= 0.0
    return torch.where(inside, a, (_shrunk(work, mu, p) * radius).to(a.dtype))


def _shrunk(a: Tensor, mu: Tensor, p: float) -> Tensor:
    """Return x with x + mu x^(p-1) = a, by Newton's method on a convex function from above, which never overshoots.

    For p < 2 the function is convex in y = x^(p-1) instead, which turns it into mu y + y^(1/(p-1)) = a.
    """
    power = max(p - 1.0, 1.0 / (p - 1.0))
    linear, curved = (torch.ones_like(mu), mu) if p > 2.0 else (mu, torch.ones_like(mu))
    y = torch.minimum(a / linear, (a / curved) ** (1.0 / power))
    for _ in range(BITS):
        bent = curved * y ** (power - 1.0)
        step = (linear * y + bent * y - a) / (linear + power * bent)
        y = y - step.clamp_min(0.0)
        if not bool((step > _ROUNDING * y).any()):
            break
    return y if p > 2.0 else y**power


def _multiplier(a: Tensor, p: float, high: Tensor) -> Tensor:
    """Return mu in [0, high] for which the x of `_shrunk` has sum(x^p) = 1, by Newton steps inside a bracket.

    The logarithm of the sum is nearly linear in mu where mu is small and in log(mu) where it is large; a step goes
    between those of the two, and every third halves the bracket.
    """
    low, mu = torch.zeros_like(high), high
    for turn in range(3 * BITS):
        x = _shrunk(a, mu, p)
        excess = _log_power_sum(x, p)
        low, high = torch.where(excess > 0, mu, low), torch.where(excess > 0, high, mu)
        if not bool(((excess.abs() > _ROUNDING) & (high - low > _ROUNDING * high)).any()):
            break
        weights = (x / x.amax(-1, keepdim=True)) ** p
        slope = p * (weights / (x ** (2.0 - p) + (p - 1.0) * mu)).sum(-1, keepdim=True) / weights.sum(-1, keepdim=True)
        steps = torch.cat([mu + excess / slope, mu * (excess / (slope * mu)).exp()], dim=-1)
        newton = torch.minimum(torch.maximum(steps, low), high).mean(-1, keepdim=True)
        usable = newton.isfinite() & (newton > low) & (newton < high) & (turn % 3 < 2)
        mu = torch.where(usable, newton, 0.5 * (low + high))
    return mu


def _log_power_sum(x: Tensor, p: float) -> Tensor:
    peak = x.amax(-1, keepdim=True).clamp_min(torch.finfo(x.dtype).tiny)
    return p * peak.log() + ((x / peak) ** p).sum(-1, keepdim=True).log()


_ROUNDING = 1e-15


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


def prox_of_capped_sum(a: Tensor, k: int, step: float | Tensor) -> Tensor:
    """Proximal map of step * max(max(x), sum(x) / k): x = clip(a - nu, 0, top - nu), and 0 if dual(a) <= step.

    The multipliers of the two bounds add up to the step, k nu + sum(max(a - top, 0)) = step, which gives `top` by nu;
    nu is 0 or makes sum(x) = k max(x). Sums over sorted magnitudes make each try as cheap as a look-up.
    """
    work = a.double()
    n, order = work.shape[-1], _Sorted.of(work)
    bound = torch.as_tensor(step, dtype=work.dtype, device=work.device)
    places = torch.arange(1, n + 1, dtype=work.dtype, device=work.device)
    drops = (order.largest[..., 1:] - places * order.ascending.flip(-1)).cummax(-1).values  # above each of them

    def top_of(nu: Tensor) -> Tensor:
        rest = bound - k * nu
        count = torch.searchsorted(drops, rest).clamp_min(1)
        return (order.sum_of(count) - rest) / count

    def excess(nu: Tensor) -> Tensor:
        top = top_of(nu)
        held, some = order.above(top), order.above(nu)
        middle = order.sum_of(some) - order.sum_of(held) - nu * (some - held)
        return middle + (held - k) * (top - nu)

    zero = torch.zeros_like(work[..., :1])
    nu = torch.where(excess(zero) <= 0, zero, bisect(excess, zero, zero + bound / k))
    x = torch.minimum((work - nu).clamp_min(0.0), top_of(nu) - nu)
    dual = order.sum_of(torch.full_like(zero, k, dtype=torch.int64))
    return torch.where(dual <= bound, 0.0, x).to(a.dtype)
