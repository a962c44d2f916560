"""Systems whose matrices are positive but for rounding."""

from __future__ import annotations

import torch
from torch import Tensor


def solved(right: Tensor, system: Tensor, least: Tensor) -> Tensor:
    """Return right system^-1.

    Args:
        right: shape (..., rows, n).
        system: symmetric, shape (..., n, n).
        least: below which an eigenvalue is taken for rounding, and replaced by this; positive, shape (...).
    """
    factor, failed = torch.linalg.cholesky_ex(system)
    if not bool(failed.any()):
        return torch.cholesky_solve(right.mT, factor).mT
    values, vectors = _eigen(system, least)
    return (right @ vectors / values) @ vectors.mT


def root(system: Tensor, least: Tensor) -> tuple[Tensor, Tensor]:
    """Return L with L L^T = system, and its inverse; arguments as for `solved`."""
    factor, failed = torch.linalg.cholesky_ex(system)
    if not bool(failed.any()):
        return factor, torch.linalg.inv(factor)
    values, vectors = _eigen(system, least)
    return vectors * values.sqrt(), (vectors / values.sqrt()).mT


def _eigen(system: Tensor, least: Tensor) -> tuple[Tensor, Tensor]:
    """Return eigenvalues, shape (..., 1, n), and eigenvectors."""
    values, vectors = torch.linalg.eigh(system)
    return torch.maximum(values, least[..., None])[..., None, :], vectors
