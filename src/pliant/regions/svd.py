"""Leading singular triplets of batches of matrices."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Triplets(NamedTuple):
    """Singular triplets in descending order: m ~ left @ diag(values) @ right^T.

    Shapes (*batch, rows, k), (*batch, k), (*batch, k, cols); both factors have orthonormal vectors.
    """

    left: Tensor
    values: Tensor
    right: Tensor


def leading_triplets(matrices: Tensor, k: int) -> Triplets:
    """Return the `k` leading singular triplets.

    While k is less than half of the rank they come from an eigendecomposition of the Gram matrix on the short side,
    followed by an exact decomposition of the matrix restricted to that subspace (Rayleigh-Ritz), so that the factors
    are orthonormal and the values attained whatever the condition of the Gram matrix. Otherwise a full SVD.

    Args:
        matrices: shape (*batch, rows, cols), float32 or float64.
        k: 1 <= k <= min(rows, cols).
    """
    rows, cols = matrices.shape[-2:]
    if rows > cols:
        left, values, right = leading_triplets(matrices.mT, k)
        return Triplets(right.mT, values, left.mT)
    if 2 * k >= rows:
        left, values, right = _svd(matrices)
        return Triplets(left[..., :k], values[..., :k], right[..., :k, :])
    subspace = _eigenvectors(matrices @ matrices.mT)[..., -k:]
    basis, factor = torch.linalg.qr(matrices.mT @ subspace)
    inner, values, outer = _svd(factor.mT)
    return Triplets(subspace @ inner, values, outer @ basis.mT)


# The operators behind torch.linalg.svd and eigh, without the wrappers' bookkeeping. They still read an error flag back
# to the host once a call (matrices that are not finite raise LinAlgError), the only host reads of the oracles here.


def _svd(matrices: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    left, values, right = torch.ops.aten._linalg_svd.default(matrices, False, True)  # noqa: SLF001
    return left, values, right


def _eigenvectors(symmetric: Tensor) -> Tensor:
    _, vectors = torch.ops.aten._linalg_eigh.default(symmetric, "L", True)  # noqa: SLF001
    return vectors


def singular_values(matrices: Tensor) -> Tensor:
    """Return all singular values, descending, differentiable; shape (*batch, min(rows, cols))."""
    return torch.linalg.svdvals(matrices)
