"""The spectral oracle that keeps state: vertices of balls of singular values, without host reads."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pliant.regions.gauges import Flat, Proportional
from pliant.regions.orthogonal import polar
from pliant.regions.scaling import nonzero_length
from pliant.regions.subspace import follow

Pair = tuple[Tensor, Tensor]


def leading_product(matrices: Tensor, pattern: Proportional | Flat, memory: dict[str, Any]) -> Pair:
    """Return factors (left, right) whose product nearly maximises <v, m> over a unit ball of singular values.

    The ball is that of Frobenius norm 1 (`Proportional`) or spectral norm 1 (`Flat`) and of rank at most
    `pattern.count`, counted over all groups together. The product is feasible up to rounding however far the subspace
    is from the leading one, since the factors on one side are orthonormal and those on the other are normalised.

    The rule: `Flat` of full rank is a polar factor, without state; everything else follows a subspace of `count` + 8
    dimensions, which for small matrices, or a large count, is the whole short side.

    Args:
        matrices: shape (*batch, groups, rows, cols), float32 or float64.
        pattern: which singular values the vertex has, and how many.
        memory: kept from call to call.
    """
    groups, rows, cols = matrices.shape[-3:]
    if isinstance(pattern, Flat) and pattern.count >= groups * min(rows, cols):
        eye = torch.eye(rows, dtype=matrices.dtype, device=matrices.device)
        return eye.expand(*matrices.shape[:-2], rows, rows), polar(matrices)
    if rows <= cols:
        return _wide(matrices, pattern, memory)
    left, right = _wide(matrices.mT, pattern, memory)
    return right.mT, left.mT


def _wide(matrices: Tensor, pattern: Proportional | Flat, memory: dict[str, Any]) -> Pair:
    rows, cols = matrices.shape[-2:]
    proportional = isinstance(pattern, Proportional)
    # Where all terms weigh alike, those that rounding made must be told from those that are there.
    left, right, sizes = follow(matrices, min(pattern.count, rows), memory, rough=proportional)
    # Directions at rounding level carry no information; a rank-one gradient must not yield unit-sized noise.
    floor = torch.finfo(sizes.dtype).eps * max(rows, cols) * sizes.amax((-2, -1), keepdim=True)
    sizes = torch.where(sizes > floor, sizes, 0.0)
    return (_proportional if proportional else _flat)(left, right, sizes, pattern.count)


def _proportional(left: Tensor, right: Tensor, sizes: Tensor, count: int) -> Pair:
    stretch = _stretch(left)
    if sizes.shape[-2] == 1:  # in descending order: a view will do
        left, right, sizes = left[..., :count], right[..., :count, :], sizes[..., :count]
    else:
        left, right, sizes = _largest(left, right, sizes, count)
    length = torch.linalg.vector_norm(sizes.flatten(-2), dim=-1)[..., None, None, None]
    return left * ((sizes > 0).unsqueeze(-2) / (nonzero_length(length) * stretch)), right


def _flat(left: Tensor, right: Tensor, sizes: Tensor, count: int) -> Pair:
    """Rows are made orthonormal before the largest are chosen, so that any choice of them is a partial isometry."""
    alive = (sizes > 0).to(sizes.dtype).unsqueeze(-1)
    rows = right / torch.where(sizes > 0, sizes, 1.0).unsqueeze(-1) * alive
    dead = torch.diag_embed(1.0 - alive.squeeze(-1))
    for _ in range(2):
        factor, failed = torch.linalg.cholesky_ex(rows @ rows.mT + dead)
        solved = torch.linalg.solve_triangular(factor, rows, upper=False)
        rows = torch.where((failed > 0)[..., None, None], rows, solved)
    gains = (right * rows).sum(-1).clamp_min(0.0) * alive.squeeze(-1)
    stretch = _stretch(left) * _stretch(rows.mT, dead)
    left, rows, gains = _largest(left, rows, gains, count)
    return left / stretch, torch.where(gains.unsqueeze(-1) > 0, rows, 0.0)


def _largest(left: Tensor, right: Tensor, sizes: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the `count` largest terms over all groups; with several groups the others stay, as zeros."""
    if sizes.flatten(-2).shape[-1] <= count:
        return left, right, sizes
    if sizes.shape[-2] == 1:
        sizes, index = sizes.topk(count, dim=-1)
        columns = index.unsqueeze(-2).expand(*left.shape[:-1], count)
        rows = index.unsqueeze(-1).expand(*right.shape[:-2], count, right.shape[-1])
        return left.gather(-1, columns), right.gather(-2, rows), sizes
    flat = sizes.flatten(-2)
    top, index = flat.topk(count, dim=-1)
    return left, right, torch.zeros_like(flat).scatter(-1, index, top).reshape(sizes.shape)


def _stretch(columns: Tensor, missing: Tensor | float = 0.0) -> Tensor:
    """Return an upper bound of the spectral norm of nearly orthonormal columns: of their distance from it, rounding."""
    gram = columns.mT @ columns + missing
    gram.diagonal(dim1=-2, dim2=-1).sub_(1.0)
    return (1.0 + torch.linalg.vector_norm(gram, dim=(-2, -1), keepdim=True)).sqrt()
