"""Least squares for weights that have to keep their zeros or a rank."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pliant.compress.definite import solved
from pliant.compress.separable import separated
from pliant.compress.truncation import rectangle
from pliant.conjugate import conjugate_gradients

_STEPS = 100


@dataclass(eq=False)
class Moments:
    """Sums over rows of features x and targets y about a point, in float64; one matrix a group.

    The point is the mean of the first rows, so that little is lost where means are large against deviations.

    Args:
        gram: of x x^T, shape (groups, columns, columns).
        cross: of y x^T, shape (groups, outputs, columns).
        x: of x, shape (groups, columns).
        y: of y, shape (groups, outputs).
        count: rows so far.
        origin: what x and y are taken about; None before the first rows.
    """

    gram: Tensor
    cross: Tensor
    x: Tensor
    y: Tensor
    count: int = 0
    origin: tuple[Tensor, Tensor] | None = None

    @classmethod
    def empty(cls, matrices: Tensor) -> Moments:
        """Return zeros for weights of shape (groups, outputs, columns)."""
        groups, outputs, columns = matrices.shape
        zeros = matrices.new_zeros((), dtype=torch.float64)
        return cls(
            gram=zeros.new_zeros(groups, columns, columns),
            cross=zeros.new_zeros(groups, outputs, columns),
            x=zeros.new_zeros(groups, columns),
            y=zeros.new_zeros(groups, outputs),
        )

    def add(self, features: Tensor, targets: Tensor) -> None:
        """Add rows: features (groups, rows, columns) and targets (groups, rows, outputs)."""
        if self.origin is None:
            self.origin = (features.mean(1, keepdim=True), targets.mean(1, keepdim=True))
        x, y = features - self.origin[0], targets - self.origin[1]
        self.count += x.shape[1]
        self.gram += x.mT @ x
        self.cross += y.mT @ x
        self.x += x.sum(1, dtype=torch.float64)
        self.y += y.sum(1, dtype=torch.float64)

    def is_finite(self) -> bool:
        """Tell whether every sum is a number."""
        return all(bool(sums.isfinite().all()) for sums in (self.gram, self.cross, self.x, self.y))

    def means(self, *, centred: bool) -> Means:
        """Return the means, those of products about the means if they are centred."""
        if self.origin is None:
            raise ValueError("moments must hold at least one row")
        x, y = self.x / self.count, self.y / self.count
        x0, y0 = (point.squeeze(1).double() for point in self.origin)
        gram = self.gram / self.count - _outer(x, x)
        cross = self.cross / self.count - _outer(y, x)
        x, y = x + x0, y + y0
        constant = gram.diagonal(dim1=-2, dim2=-1) <= _CONSTANT * x.square()
        gram = gram.masked_fill(constant[..., None] | constant[..., None, :], 0.0)
        cross = cross.masked_fill(constant[..., None, :], 0.0)
        if centred:
            return Means(gram, cross, x, y)
        return Means(gram + _outer(x, x), cross + _outer(y, x), x, y)


_CONSTANT = 1e-12  # of the squared mean: the variance of a number that rounding alone moves, in float32


@dataclass(frozen=True, eq=False)
class Means:
    """Means over rows of features x and targets y, in float64: of x x^T, y x^T, x and y, as in `Moments`."""

    gram: Tensor
    cross: Tensor
    x: Tensor
    y: Tensor


def _outer(one: Tensor, other: Tensor) -> Tensor:
    return one[..., None] * other[..., None, :]


@dataclass(frozen=True)
class Limit:
    """The most that the rank of each group may be.

    Args:
        rank: positive.
        tail: how many of the columns that follow each other are read with the rows: 1, or the length of the last axis
            in a spatial reading.
    """

    rank: int
    tail: int = 1

    def rectangle(self, filled: Tensor) -> Tensor:
        """Return the smallest product of rows and columns, as they are read, that holds these entries."""
        apart = filled.unflatten(-1, (-1, self.tail))
        return (apart.any(-2, keepdim=True) & apart.any((-3, -1), keepdim=True)).flatten(-2)


def fit(start: Tensor, support: Tensor, means: Means, ridge: float, limit: Limit | None) -> Tensor | None:
    """Return argmin_W mean |W x - y|^2 + damping |W - start|^2, over weights that are zero outside their support.

    The damping is `ridge` times the mean square of those entries of x that are not always zero. Where the support is
    the same for all outputs that have one, the solution is exact, also among weights of a rank: with H the Gram matrix
    and its damping, and W the solution without a limit, U the leading eigenvectors of W H W^T, it is U U^T W
    (reduced-rank regression). For other supports it is what a hundred steps of conjugate gradients make of `start`, and
    for spatial ranks what alternating least squares make of that.

    Args:
        start: zero outside the support, shape (groups, outputs, columns), float64.
        support: likewise, boolean.
        means: of what is read and what is to be written.
        ridge: positive.
        limit: of the rank, or None.

    Returns:
        likewise, or None if x is always zero, so that nothing can be said.

    Reference: Izenman (1975), Reduced-rank regression for the multivariate linear model.
    """
    squares = means.gram.diagonal(dim1=-2, dim2=-1)
    damping = ridge * squares.sum() / squares.gt(0.0).sum().clamp_min(1)
    if damping <= 0.0:
        return None
    system = means.gram.clone()
    system.diagonal(dim1=-2, dim2=-1).add_(damping)
    right = (means.cross - start @ means.gram) * support
    if torch.equal(rectangle(support), support):
        columns = support.any(-2)
        inside = columns[..., None] & columns[..., None, :]
        eye = torch.eye(system.shape[-1], dtype=torch.bool, device=system.device)
        move = solved(right, torch.where(inside | eye, system, 0.0), damping.expand(len(system)))
    else:
        move = _by_steps(system, right, support)
    found = start + move
    if limit is None:
        return found
    if limit.tail > 1:
        return separated(found, system, support, limit.rank, limit.tail)
    leading = torch.linalg.eigh(found @ system @ found.mT)[1][..., -limit.rank :]
    return torch.where(support, leading @ (leading.mT @ found), 0.0)


def _by_steps(system: Tensor, right: Tensor, support: Tensor) -> Tensor:
    shape = right.shape

    def image(move: Tensor) -> Tensor:
        return ((move.view(shape) @ system) * support).flatten(0, 1)

    return conjugate_gradients(image, right.flatten(0, 1), _STEPS).view(shape)
