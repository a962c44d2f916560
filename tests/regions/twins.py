"""Slow, obvious copies of what pliant.regions computes: enumeration, naive views, and a convex solver."""

import itertools
import math

import cvxpy as cp
import numpy as np
import torch

SOLVER = {"solver": cp.CLARABEL}


def entries(w):
    return np.abs(w).ravel()


def filters(w):
    return np.array([np.sqrt((row**2).sum()) for row in w])


def singular(w):
    matrix = w.reshape(w.shape[0], -1)
    return np.sqrt(np.clip(np.linalg.eigvalsh(matrix @ matrix.T), 0, None))[::-1][: min(matrix.shape)]


def k_support_norm(a, k):
    """The formula by trying every split: the norm is the largest of the dual problem's candidates."""
    a = np.sort(np.asarray(a, dtype=float))[::-1]
    for head in range(k):
        tail = a[head:].sum()
        above = math.inf if head == 0 else a[head - 1]
        if above > tail / (k - head) >= a[head]:
            return math.sqrt((a[:head] ** 2).sum() + tail**2 / (k - head))
    raise AssertionError(f"no split fits {a} and {k}")


def k_support_norm_variational(a, k):
    """min sqrt(sum a_i^2 / theta_i) over 0 <= theta <= 1, sum(theta) <= k, by a convex solver."""
    theta = cp.Variable(len(a))
    cost = sum(cp.quad_over_lin(float(number), theta[i]) for i, number in enumerate(a) if number)
    cp.Problem(cp.Minimize(cost), [theta >= 0, theta <= 1, cp.sum(theta) <= k]).solve(**SOLVER)
    return math.sqrt(cost.value)


def dual_and_vertex(a, k, p):
    """max <v, a> over all supports of size k, and a maximiser."""
    best, vertex = -math.inf, None
    for support in itertools.combinations(range(len(a)), k):
        part = np.array([a[i] for i in support])
        length = part.sum() if p == math.inf else np.sqrt((part**2).sum())
        if length > best:
            weights = np.ones(k) if p == math.inf else part / length
            best, vertex = length, np.zeros(len(a))
            vertex[list(support)] = weights
    return best, vertex


def project_by_solver(x, constraints):
    """argmin |y - x| subject to constraints(y)."""
    y = cp.Variable(x.shape)
    cp.Problem(cp.Minimize(cp.sum_squares(y - x)), constraints(y)).solve(**SOLVER)
    return y.value


def in_k_support_ball(radius, k):
    def constraints(y):
        theta, parts = cp.Variable(y.shape[0]), cp.Variable(y.shape[0])
        cones = [cp.quad_over_lin(y[i], theta[i]) <= parts[i] for i in range(y.shape[0])]
        return [*cones, theta >= 0, theta <= 1, cp.sum(theta) <= k, cp.sum(parts) <= radius**2]

    return constraints


def in_group_k_support_ball(radius, k):
    def constraints(y):
        n = y.shape[0]
        theta, parts = cp.Variable(n), cp.Variable(n)
        cones = [cp.quad_over_lin(y[i, :], theta[i]) <= parts[i] for i in range(n)]
        return [*cones, theta >= 0, theta <= 1, cp.sum(theta) <= k, cp.sum(parts) <= radius**2]

    return constraints


def in_k_sparse_polytope(radius, k):
    return lambda y: [cp.norm(y, "inf") <= radius, cp.norm1(y) <= k * radius]


def in_spectral_k_sparse_polytope(radius, k):
    return lambda y: [cp.sigma_max(y) <= radius, cp.normNuc(y) <= k * radius]


def in_nuclear_ball(radius):
    return lambda y: [cp.normNuc(y) <= radius]


def in_group_lasso_ball(radius):
    return lambda y: [cp.sum(cp.norm(y, 2, axis=1)) <= radius]


def in_lp_ball(radius, p):
    return lambda y: [cp.pnorm(y, p) <= radius]


def prox_by_bisection(ball_of, x, step):
    """Prox of step * norm as the projection of x onto the ball whose residual has dual norm `step`, by halving."""
    if float(ball_of(1.0).dual(x)) <= step:
        return torch.zeros_like(x)
    low, high = 0.0, float(ball_of(1.0).value(x))
    for _ in range(60):
        middle = 0.5 * (low + high)
        far = float(ball_of(1.0).dual(x - ball_of(middle).project(x))) > step
        low, high = (middle, high) if far else (low, middle)
    return ball_of(high).project(x)


def onto_lp_ball_by_bisection(x, p, radius):
    """Nearest y to non-negative x outside the l_p ball: y + mu y^(p-1) = x, both for y and for mu by halving."""

    def root(decreasing, low, high):
        for _ in range(200):
            middle = 0.5 * (low + high)
            above = decreasing(middle) > 0
            low, high = torch.where(above, middle, low), torch.where(above, high, middle)
        return high

    def shrunk(mu):
        return root(lambda y: x - y - mu * y ** (p - 1.0), torch.zeros_like(x), x.clone())

    top = (x.sum() / radius ** (p - 1.0)).reshape(1)
    return shrunk(root(lambda mu: shrunk(mu).norm(p) - radius, torch.zeros_like(top), top))
