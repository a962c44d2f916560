"""Weights of a spatial rank that write nearly what others write."""

from __future__ import annotations

import torch
from torch import Tensor

from pliant.compress.definite import root, solved
from pliant.conjugate import conjugate_gradients

_ROUNDS = 8
_ENOUGH = 5e-3  # of what is left: a round that gains less is the last
_STEPS = 10
_LEAST = 1e-10  # of a mean square: below it is rounding


def separated(weights: Tensor, system: Tensor, support: Tensor, rank: int, tail: int) -> Tensor:
    """Return weights W' of a spatial rank with small <W' - W, (W' - W) H>, by alternating least squares.

    With columns c of the other axes and t of the last one, W'[o, c, t] = sum_r A[o, t, r] B[r, c]. It begins with the
    best B for the nearest H that is a product of one matrix over c and one over t, which would be the solution for such
    an H; then A is solved for and B improved by conjugate gradients, in turns, in coordinates in which H is near one.
    Where some but not all t of an output are outside the support, A is what is left of a solution without that.

    Args:
        weights: W, zero outside the support, shape (groups, outputs, columns), float64.
        system: H, symmetric and positive definite, shape (groups, columns, columns).
        support: where weights may lie, a product of pairs (o, t) and columns c, boolean, shape of `weights`.
        rank: of the spatial reading of each group, positive.
        tail: length of the last axis, which the columns end with.

    Returns:
        likewise, zero outside the support.

    Reference: Jaderberg, Vedaldi, Zisserman (2014), arXiv 1405.3866, minimise what the two convolutions write.
    """
    groups, outputs, columns = weights.shape
    shape = (groups, outputs, columns // tail, tail)
    if rank >= min(outputs * tail, columns // tail):
        return weights
    whole, allowed = weights.view(shape), support.view(shape)
    rows, live = allowed.any(2), allowed.any(1).any(-1)  # (groups, outputs, tail), (groups, c)
    kept = live[..., None].expand(*live.shape, tail).flatten(1)
    eye = torch.eye(columns, dtype=torch.bool, device=weights.device)
    masked = torch.where((kept[..., None] & kept[..., None, :]) | eye, system, 0.0)
    metric = masked.view(groups, shape[2], tail, shape[2], tail)
    factor, inverse = _root(metric.diagonal(dim1=2, dim2=4).mean(-1))
    along, _ = _root(metric.diagonal(dim1=1, dim2=3).mean(-1))
    metric = torch.einsum("gab,gbtds,gcd->gatcs", inverse, metric, inverse)
    whole = torch.einsum("goct,gcd->godt", whole, factor)
    aim = _times(whole, metric)
    flat = torch.einsum("goct,gts->gosc", whole, along).flatten(1, 2)
    second = torch.linalg.eigh(flat.mT @ flat)[1][..., -rank:].mT
    total, coarse = float((whole * aim).sum()), metric.float()
    left = total
    for turn in range(_ROUNDS):
        first, gained = _first(second, aim, metric)
        first, before, left = first * rows[..., None], left, total - gained
        if turn == _ROUNDS - 1 or before - left <= _ENOUGH * left:
            break
        second = _second(first, second, aim, coarse)
    found = torch.einsum("gotr,grc,gcd->godt", first, second, inverse)
    return torch.where(allowed, found, 0.0).flatten(2)


def _times(weights: Tensor, metric: Tensor) -> Tensor:
    """Return the product of weights, (groups, outputs, c, tail), with a metric, (groups, c, tail, c, tail)."""
    return torch.einsum("goct,gctds->gods", weights, metric)


def _root(metric: Tensor) -> tuple[Tensor, Tensor]:
    return root(metric, _least(metric))


def _least(system: Tensor) -> Tensor:
    """Return what of the eigenvalues is rounding; 1 where there is nothing but zeros."""
    scale = system.diagonal(dim1=-2, dim2=-1).abs().mean(-1)
    return torch.where(scale > 0.0, _LEAST * scale, 1.0)


def _first(second: Tensor, aim: Tensor, metric: Tensor) -> tuple[Tensor, float]:
    """Return the best A, shape (groups, outputs, tail, rank), for a B of shape (groups, rank, c).

    Second, by how much <W' - W, (W' - W) H> is smaller with it than with zeros.
    """
    gram = torch.einsum("gqc,gctds,grd->gtqsr", second, metric, second).flatten(3).flatten(1, 2)
    right = torch.einsum("gods,grd->gosr", aim, second)
    least = _least(gram)
    gram.diagonal(dim1=-2, dim2=-1).add_(least[:, None])
    found = solved(right.flatten(2), gram, least).view(right.shape)
    return found, float((found * right).sum())


def _second(first: Tensor, second: Tensor, aim: Tensor, metric: Tensor) -> Tensor:
    """Return a better B, for the span of an A, in the precision of the metric."""
    basis, triangle = torch.linalg.qr(first.flatten(1, 2))
    basis, second = basis.view(first.shape), triangle @ second
    right = torch.einsum("gosr,gods->grd", basis, aim).to(metric.dtype)
    pairs = torch.einsum("gotq,gosr->gqtsr", basis, basis).to(metric.dtype)

    def image(moved: Tensor) -> Tensor:
        return torch.einsum("gqtds,gqtsr->grd", torch.einsum("gqc,gctds->gqtds", moved, metric), pairs)

    residual = right - image(second.to(metric.dtype))
    return second + conjugate_gradients(image, residual, _STEPS)
