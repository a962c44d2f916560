"""Least squares for weights that have to keep their zeros or a rank."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pliant.compress.factor import rectangle
from pliant.conjugate import conjugate_gradients

_STEPS = 100


@dataclass(eq=False)
class Moments:
    """Sums over rows of features x and targets y, in float64; one matrix a group.

    Args:
        count: rows so far.
        gram: of x x^T, shape (groups, columns, columns).
        cross: of y x^T, shape (groups, outputs, columns).
        x: of x, shape (groups, columns).
        y: of y, shape (groups, outputs).
    """

    count: int
    gram: Tensor
    cross: Tensor
    x: Tensor
    y: Tensor

    @classmethod
    def empty(cls, matrices: Tensor) -> Moments:
        """Return zeros for weights of shape (groups, outputs, columns)."""
        groups, outputs, columns = matrices.shape
        zeros = matrices.new_zeros((), dtype=torch.float64)
        return cls(
            count=0,
            gram=zeros.new_zeros(groups, columns, columns),
            cross=zeros.new_zeros(groups, outputs, columns),
            x=zeros.new_zeros(groups, columns),
            y=zeros.new_zeros(groups, outputs),
        )

    def add(self, features: Tensor, targets: Tensor) -> None:
        """Add rows: features (groups, rows, columns) and targets (groups, rows, outputs)."""
        self.count += features.shape[1]
        self.gram += features.mT @ features
        self.cross += targets.mT @ features
        self.x += features.sum(1, dtype=torch.float64)
        self.y += targets.sum(1, dtype=torch.float64)

    def means(self, *, centred: bool) -> Moments:
        """Return means in the place of sums, those of products about the means if they are centred."""
        found = Moments(1, self.gram / self.count, self.cross / self.count, self.x / self.count, self.y / self.count)
        if centred:
            found.gram -= found.x[..., None] * found.x[..., None, :]
            found.cross -= found.y[..., None] * found.x[..., None, :]
        return found


def fit(start: Tensor, support: Tensor, moments: Moments, ridge: float, rank: int | None) -> Tensor:
    """Return argmin_W mean |W x - y|^2 + damping |W - start|^2, over weights that are zero outside their support.

    The damping is `ridge` times the mean square of an entry of x. Where the support is the same for all outputs that
    have one, the solution is exact, also among weights of a rank: with H the Gram matrix and its damping, and W the
    solution without a limit, U the leading eigenvectors of W H W^T, it is U U^T W (reduced-rank regression). For other
    supports it is what a hundred steps of conjugate gradients make of `start`.

    Args:
        start: zero outside the support, shape (groups, outputs, columns), float64.
        support: likewise, boolean.
        moments: means.
        ridge: positive.
        rank: the most that each group may have, or None.

    Reference: Izenman (1975), Reduced-rank regression for the multivariate linear model.
    """
    squares = moments.gram.diagonal(dim1=-2, dim2=-1)
    damping = ridge * squares.sum() / squares.gt(0.0).sum().clamp_min(1)
    if not damping > 0.0:
        return start
    system = moments.gram.clone()
    system.diagonal(dim1=-2, dim2=-1).add_(damping)
    right = (moments.cross - start @ moments.gram) * support
    if torch.equal(rectangle(support), support):
        columns = support.any(-2)
        inside = columns[..., None] & columns[..., None, :]
        eye = torch.eye(system.shape[-1], dtype=torch.bool, device=system.device)
        factor = torch.linalg.cholesky(torch.where(inside | eye, system, 0.0))
        move = torch.cholesky_solve(right.mT, factor).mT
    else:
        move = _by_steps(system, right, support)
    found = start + move
    if rank is None:
        return found
    leading = torch.linalg.eigh(found @ system @ found.mT)[1][..., -rank:]
    return leading @ (leading.mT @ found)


def _by_steps(system: Tensor, right: Tensor, support: Tensor) -> Tensor:
    shape = right.shape

    def image(move: Tensor) -> Tensor:
        return ((move.view(shape) @ system) * support).flatten(0, 1)

    return conjugate_gradients(image, right.flatten(0, 1), _STEPS).view(shape)
