"""Alternating least squares: a train comes nearer to a tensor, one core after the other."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pliant.tensor_train.train import Cores


def sweep(tensor: Tensor, cores: Sequence[Tensor]) -> Cores:
    """Replace each core, from left to right, by the best one beside the others; the distance never grows.

    Args:
        tensor: shape (n_1, ..., n_m).
        cores: a train of the same sizes; the result has its ranks.

    Returns:
        the train; all cores but the last have orthonormal columns.

    Reference: Holtz, Rohwedder, Schneider (2012).
    """
    tails = right_bases(cores)
    done = []
    rest, rank = tensor.reshape(1, -1), 1
    for core, tail in zip(cores[:-1], tails, strict=True):
        unfolded = rest.reshape(rank * core.shape[1], -1)
        basis: Tensor = torch.linalg.qr(unfolded @ tail.mT)[0]
        rank = core.shape[2]
        done.append(basis.reshape(core.shape))
        rest = basis.mT @ unfolded
    return (*done, rest.reshape(cores[-1].shape))


def right_bases(cores: Sequence[Tensor]) -> list[Tensor]:
    """Return for every bond an orthonormal basis of what the cores behind it span, shape (r_k, n_{k+1} ... n_m)."""
    found: list[Tensor] = []
    tail = cores[-1].flatten(1)
    for core in reversed(cores[:-1]):
        basis, factor = torch.linalg.qr(tail.mT)
        found.append(basis.mT)
        tail = (core.flatten(0, 1) @ factor.mT @ basis.mT).reshape(core.shape[0], -1)
    return found[::-1]


def left_bases(cores: Sequence[Tensor]) -> list[Tensor]:
    """Return for every bond an orthonormal basis of what the cores before it span, shape (n_1 ... n_k, r_k)."""
    found: list[Tensor] = []
    head = cores[0].flatten(0, 1)
    for core in cores[1:]:
        basis, factor = torch.linalg.qr(head)
        found.append(basis)
        head = (basis @ (factor @ core.flatten(1))).reshape(-1, core.shape[2])
    return found


def onto_tangent(cores: Sequence[Tensor], tensor: Tensor) -> Tensor:
    """Return the projection of a tensor onto the tangent space, at a train, of the trains of its ranks.

    With P_k the projection onto what the first k cores span and Q_k that onto what the cores behind bond k span, it is
    the sum over k of (P_{k-1} - P_k) Q_k, with P_0 and Q_m the identity and P_m zero.

    Args:
        cores: the train.
        tensor: shape (n_1, ..., n_m).

    Reference: Lubich, Oseledets, Vandereycken (2015).
    """
    result = torch.zeros_like(tensor)
    before = tensor  # P_{k-1} of the tensor
    for left, right in zip(left_bases(cores), right_bases(cores), strict=True):
        whole = tensor.reshape(left.shape[0], -1)
        after = left @ (left.mT @ whole)
        result += ((before.reshape(whole.shape) - after) @ right.mT @ right).reshape(tensor.shape)
        before = after
    return result + before.reshape(tensor.shape)
