"""Moments: the two small matrices that the weights of a layer depend on, summed over all samples."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pliant.bcd.errors import SingularSystemError
from pliant.bcd.processes import total

_LEAF = 64


@dataclass(frozen=True, eq=False)
class Moments:
    """F^T F and R^T F of features F and residuals R, each row one sample (of a convolution: one place of one sample).

    With a bias the features have one more column, of ones, which is never stored.

    Args:
        gram: shape (p, p); only its upper half is kept while it is summed.
        cross: shape (out, p).
        bias: whether the last of the p columns is that of ones.
        known: whether `gram` is complete already, of an earlier sweep.
    """

    gram: Tensor
    cross: Tensor
    bias: bool
    known: bool

    @classmethod
    def empty(cls, weight: Tensor, bias: Tensor | None, gram: Tensor | None) -> Moments:
        """Return zeros for a layer, or the Gram matrix that is known."""
        p = weight[0].numel() + (bias is not None)
        start = weight.new_zeros(p, p) if gram is None else gram
        return cls(start, weight.new_zeros(len(weight), p), bias is not None, gram is not None)

    def add(self, features: Tensor, residual: Tensor) -> None:
        """Add rows: features (rows, p or p - 1) and residuals (rows, out)."""
        p = features.shape[1]
        self.cross[:, :p].addmm_(residual.mT, features)
        if self.bias:
            self.cross[:, p] += residual.sum(0)
        if self.known:
            return
        add_gram(self.gram[:p, :p], features)
        if self.bias:
            self.gram[:p, p] += features.sum(0)
            self.gram[p, p] += len(features)

    def finish(self) -> Moments:
        """Return the sums over all processes, the Gram matrix whole."""
        if self.known:
            return Moments(self.gram, total(self.cross), self.bias, known=True)
        return Moments(mirrored(total(self.gram)), total(self.cross), self.bias, known=True)


def add_gram(sums: Tensor, rows: Tensor) -> None:
    """Add rows^T rows to the upper triangle of sums, by halves: at little more than half the flops of the product."""
    p = rows.shape[1]
    if p <= _LEAF:
        sums.addmm_(rows.mT, rows)
        return
    left, right = slice(0, p // 2), slice(p // 2, p)
    sums[left, right].addmm_(rows[:, left].mT, rows[:, right])
    for half in (left, right):
        add_gram(sums[half, half], rows[:, half])


def mirrored(upper: Tensor) -> Tensor:
    """Return the symmetric matrix with this upper triangle."""
    return torch.triu(upper) + torch.triu(upper, 1).mT


def gram(rows: Tensor) -> Tensor:
    """Return rows^T rows."""
    sums = rows.new_zeros(rows.shape[1], rows.shape[1])
    add_gram(sums, rows)
    return mirrored(sums)


def solve(matrix: Tensor, right: Tensor, where: str) -> Tensor:
    """Return matrix^-1 right by Cholesky; in float64 where the matrix is not positive definite to its own precision.

    Args:
        matrix: symmetric, positive definite, shape (p, p).
        right: shape (p, columns).
        where: names the system in errors.

    Raises:
        SingularSystemError: if there is no Cholesky factor in float64 either.
    """
    factor = factored(matrix, where)
    return torch.cholesky_solve(right.to(factor.dtype), factor).to(right.dtype)


def factored(matrix: Tensor, where: str) -> Tensor:
    """Return the lower Cholesky factor of a matrix; `solve` says what is raised."""
    factor, failed = torch.linalg.cholesky_ex(matrix)
    if not bool(failed):
        return factor
    factor, failed = torch.linalg.cholesky_ex(matrix.double())
    if bool(failed):
        raise SingularSystemError(
            f"{where}: the matrix of shape {tuple(matrix.shape)} is not positive definite; the weights or the data are "
            "not finite, or alpha and gamma are too small against the data: raise them"
        )
    return factor


def solve_rows(factor: Tensor, rows: Tensor) -> Tensor:
    """Return rows matrix^-1 of a matrix with this Cholesky factor, by triangular systems from the right.

    That order suits samples in rows: it takes two thirds of the time of `torch.cholesky_solve` on their transpose.
    """
    half = torch.linalg.solve_triangular(factor.mT, rows.to(factor.dtype), upper=True, left=False)
    return torch.linalg.solve_triangular(factor, half, upper=False, left=False).to(rows.dtype)
