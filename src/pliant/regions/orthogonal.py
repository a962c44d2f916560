"""Orthonormal columns and polar factors without host reads."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pliant.regions.scaling import nonzero, nonzero_length

# Singular values below this share of the largest stay what they are under `polar`: directions of rounding.
SMALLEST = 1e-3
CHOLESKY_ROUNDS = 3
ROUNDING = 8.0  # units; found: at most 2 above 1, for sides up to 512


def orthonormal_columns(matrices: Tensor) -> Tensor:
    """Return orthonormal columns whose first j span the first j columns given, for every j.

    Columns that depend on earlier ones, or are zero, are replaced by others, so that there are always as many.

    Args:
        matrices: shape (*batch, rows, cols) with rows >= cols.
    """
    if matrices.device.type == "cpu":
        return torch.linalg.qr(matrices)[0]
    peak = matrices.abs().amax((-2, -1), keepdim=True)
    scaled = matrices / nonzero(peak)
    norms = torch.linalg.vector_norm(scaled, dim=-2, keepdim=True)
    return _by_cholesky(scaled / nonzero_length(norms))


def _by_cholesky(unit: Tensor) -> Tensor:
    """Shifted Cholesky factorisations of the Gram matrix: products and solves, which an accelerator does well.

    A small multiple of the identity is added first, so that dependent columns become independent, and a shift to the
    Gram matrix, so that rounding does not make it indefinite; both cost far less than one step of iteration gains.

    Reference: Fukaya, Kannan, Nakatsukasa, Yamamoto, Yanagisawa, "Shifted Cholesky QR" (2020).
    """
    rows, cols = unit.shape[-2:]
    eye = torch.eye(rows, cols, dtype=unit.dtype, device=unit.device)
    small = torch.eye(cols, dtype=unit.dtype, device=unit.device)
    columns = unit + math.sqrt(cols * torch.finfo(unit.dtype).eps) * eye
    for turn in range(CHOLESKY_ROUNDS):
        shift = 0.0 if turn == CHOLESKY_ROUNDS - 1 else 10.0 * cols * torch.finfo(unit.dtype).eps
        factor, failed = torch.linalg.cholesky_ex(columns.mT @ columns + shift * small)
        solved = torch.linalg.solve_triangular(factor, columns.mT, upper=False).mT
        columns = torch.where((failed > 0)[..., None, None], columns, solved)
    return columns


def polar(matrices: Tensor) -> Tensor:
    """Return the polar factor U V^T of matrices m = U S V^T, of spectral norm at most 1 up to rounding.

    Directions whose singular value is below `SMALLEST` times the largest are damped, those at rounding level vanish.
    Dynamically weighted Halley iteration, each step a Cholesky factorisation on the short side.

    Args:
        matrices: shape (*batch, rows, cols).

    Reference: Nakatsukasa, Bai, Gygi, "Optimizing Halley's iteration for computing the matrix polar decomposition"
    (2010).
    """
    if matrices.shape[-2] > matrices.shape[-1]:
        return polar(matrices.mT).mT
    peak = matrices.abs().amax((-2, -1), keepdim=True)
    x = matrices / nonzero(peak)
    x = x / _norm_bound(x @ x.mT).sqrt()
    lower = SMALLEST
    while lower < 1.0 - 1e-7:
        a, b, c = _weights(lower)
        x = _halley(x, a, b, c)
        lower = lower * (a + b * lower**2) / (1.0 + c * lower**2)
    # The iteration keeps singular values below 1; this much is rounding.
    return x / (1.0 + ROUNDING * torch.finfo(x.dtype).eps)


def _halley(x: Tensor, a: float, b: float, c: float) -> Tensor:
    """Return x (a + b x^T x) (1 + c x^T x)^-1, without the loss of digits of an explicit inverse."""
    eye = torch.eye(x.shape[-2], dtype=x.dtype, device=x.device)
    factor, _ = torch.linalg.cholesky_ex(eye + c * (x @ x.mT))
    return (b / c) * x + (a - b / c) * torch.cholesky_solve(x, factor)


def _weights(lower: float) -> tuple[float, float, float]:
    """Return the weights of a Halley step that lifts singular values in [lower, 1] most."""
    d = (4.0 * (1.0 - lower**2) / lower**4) ** (1.0 / 3.0)
    root = math.sqrt(1.0 + d)
    a = root + 0.5 * math.sqrt(8.0 - 4.0 * d + 8.0 * (2.0 - lower**2) / (lower**2 * root))
    b = (a - 1.0) ** 2 / 4.0
    return a, b, a + b - 1.0


def _norm_bound(gram: Tensor) -> Tensor:
    """Return an upper bound of the largest eigenvalue: |A^2|_F^(1/2) <= n^(1/4) times it; 1 for zero."""
    squared = torch.linalg.matrix_norm(gram @ gram, keepdim=True)
    return torch.where(squared > 0, squared.sqrt(), 1.0)
