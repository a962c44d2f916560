"""The published algorithm as its description has it, with nothing done for speed: what a first version looks like.

One Python loop over the parameters; per parameter a dense vertex, norms read back to the host, and for low rank either
the full singular value decomposition or ten block power iterations from a random start, two QR factorisations each.

Reference: Zimmer, Spiegel, Pokutta, "Compression-aware training of neural networks using Frank-Wolfe" (2022).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from pliant import Ball, Entries, Filters, Free, Plan, Singular, TopK
from pliant.structure.group import Group

Best = Callable[[Tensor, int], Tensor]  # the best approximation of a matrix by one of rank k, or something near it


def full_svd(matrix: Tensor, k: int) -> Tensor:
    """Return the best approximation of rank k."""
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    return (left[:, :k] * values[:k]) @ right[:k]


def gram(matrix: Tensor, k: int) -> Tensor:
    """Return the best approximation of rank k, from the eigenvectors of the Gram matrix on the short side."""
    if matrix.shape[0] > matrix.shape[1]:
        return gram(matrix.mT, k).mT
    _, vectors = torch.linalg.eigh(matrix @ matrix.mT)
    leading = vectors[:, -k:]
    return leading @ (leading.mT @ matrix)


def block_power(matrix: Tensor, k: int, iterations: int = 10) -> Tensor:
    """Return an approximation of rank k by block power iteration from a random start."""
    right, _ = torch.linalg.qr(torch.randn(matrix.shape[1], k, device=matrix.device))
    for _ in range(iterations):
        left, _ = torch.linalg.qr(matrix @ right)
        right, factor = torch.linalg.qr(matrix.mT @ left)
    return (left * factor.diagonal()) @ right.mT


class LiteralSFW:
    """Stochastic Frank-Wolfe with the step length of the gradient, parameter by parameter.

    Args:
        plan: what is constrained how: l2 and k-support balls.
        best: the approximation of rank k that spectral balls use.
        lr: learning rate.
        momentum: in [0, 1).
    """

    def __init__(self, plan: Plan, best: Best = full_svd, *, lr: float, momentum: float = 0.9) -> None:
        self._plan, self._best, self._lr, self._momentum = plan, best, lr, momentum
        self._buffers: dict[Tensor, Tensor] = {}

    @torch.no_grad()
    def step(self) -> None:
        """Take one step."""
        for group in self._plan:
            for slot in group.slots:
                self._move(group, slot.parameter)

    def _move(self, group: Group, theta: Tensor) -> None:
        if theta.grad is None:
            return
        m = self._momentum * self._buffers.get(theta, torch.zeros_like(theta)) + theta.grad
        self._buffers[theta] = m
        if isinstance(group.target, Free):
            theta -= group.target.lr * m
            return
        v = self._vertex(group, m)
        alpha = self._lr * float(torch.linalg.vector_norm(m)) / float(torch.linalg.vector_norm(theta - v))
        alpha = min(max(alpha, 0.0), 1.0)
        theta.copy_((1 - alpha) * theta + alpha * v)

    def _vertex(self, group: Group, m: Tensor) -> Tensor:
        ball = group.target
        if not isinstance(ball, Ball):
            raise ValueError(f"{', '.join(group.names)}: only balls are written out here, found {ball!r}")
        gauge = ball.gauge.at(ball.view.count(m.shape))
        direction = self._chosen(ball, m, int(gauge.k)) if isinstance(gauge, TopK) else m
        return -ball.radius * direction / torch.linalg.vector_norm(direction)

    def _chosen(self, ball: Ball, m: Tensor, k: int) -> Tensor:
        """Return m with all but its k largest atoms removed."""
        if isinstance(ball.view, Entries):
            flat = m.flatten()
            kept = flat.abs().topk(k).indices
            return torch.zeros_like(flat).scatter(0, kept, flat[kept]).view_as(m)
        if isinstance(ball.view, Filters):
            rows = m.flatten(1) if m.ndim > 1 else m.unsqueeze(1)
            kept = torch.linalg.vector_norm(rows, dim=1).topk(k).indices
            return torch.zeros_like(rows).index_copy(0, kept, rows[kept]).view_as(m)
        if isinstance(ball.view, Singular):
            return self._best(m.flatten(1), k).view_as(m)
        raise ValueError(f"view must be Entries, Filters or Singular, found {ball.view!r}")
