"""Leading singular triplets of batches of matrices."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

LinAlgError: type[RuntimeError] = torch.linalg.LinAlgError  # type: ignore[attr-defined]  # its module does not export it


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


class DecompositionError(ArithmeticError):
    """A matrix has no singular value decomposition that can be computed: it is not finite."""


# The operators behind torch.linalg.svd and eigh, without the wrappers' bookkeeping. They still read an error flag back
# to the host once a call, the only host reads of the exact oracles.


def _svd(matrices: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    try:
        left, values, right = torch.ops.aten._linalg_svd.default(matrices, False, True)  # noqa: SLF001
    except LinAlgError as error:
        left, values, right = _again(lambda m: torch.linalg.svd(m, full_matrices=False), matrices, error)
    return left, values, right


def _eigenvectors(symmetric: Tensor) -> Tensor:
    try:
        _, vectors = torch.ops.aten._linalg_eigh.default(symmetric, "L", True)  # noqa: SLF001
    except LinAlgError as error:
        _, vectors = _again(torch.linalg.eigh, symmetric, error)
    return vectors


def _again(factorise: Callable[[Tensor], Sequence[Tensor]], matrices: Tensor, error: Exception) -> list[Tensor]:
    """Factorise what did not converge once more: in float64 on the CPU, then with its entries moved by rounding.

    Raises:
        DecompositionError: if that fails as well.
    """
    copy = matrices.detach().cpu().double()
    wobble = 1.0 + torch.finfo(matrices.dtype).eps * torch.sin(torch.arange(copy.numel())).reshape(copy.shape)
    for attempt in (copy, copy * (wobble + wobble.mT if copy.shape[-1] == copy.shape[-2] else wobble)):
        try:
            return [part.to(matrices) for part in factorise(attempt)]
        except LinAlgError:
            continue
    bad = int((~matrices.isfinite()).sum())
    raise DecompositionError(
        f"matrices of shape {tuple(matrices.shape)} have no singular value decomposition; {bad} of their entries are "
        "not finite and all must be: look for the step that made them so"
    ) from error


def singular_values(matrices: Tensor) -> Tensor:
    """Return all singular values, descending, differentiable; shape (*batch, min(rows, cols))."""
    return torch.linalg.svdvals(matrices)
