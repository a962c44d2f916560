"""Tensor trains: a tensor as a chain of cores, A[i_1, ..., i_m] = G_1[i_1] ... G_m[i_m], each G_k[i] a matrix."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from pliant.regions.svd import leading_triplets, singular_values
from pliant.tensor_train.errors import TrainError

Cores = tuple[Tensor, ...]  # core k has the shape (r_{k-1}, n_k, r_k); r_0 = r_m = 1


def contract(cores: Sequence[Tensor]) -> Tensor:
    """Return the tensor of a train, shape (n_1, ..., n_m)."""
    tensor = cores[0].flatten(0, 1)
    for core in cores[1:]:
        tensor = (tensor @ core.flatten(1)).reshape(-1, core.shape[-1])
    return tensor.reshape([core.shape[1] for core in cores])


def full_ranks(sizes: Sequence[int]) -> tuple[int, ...]:
    """Return the largest rank of every bond: with these, a train can be any tensor.

    >>> full_ranks((4, 6, 5))
    (4, 5)
    """
    return admissible(sizes, [torch.iinfo(torch.int64).max] * (len(sizes) - 1))


def admissible(sizes: Sequence[int], ranks: Sequence[int]) -> tuple[int, ...]:
    """Return the ranks that no train of these sizes exceeds and still is any train of the given ranks.

    A rank is at most that of the bond before times the size between them, and the same from behind.

    >>> admissible((2, 3, 4), (5, 9))
    (2, 4)

    Args:
        sizes: (n_1, ..., n_m).
        ranks: (r_1, ..., r_{m-1}).

    Raises:
        TrainError: if there is not one rank of at least 1 for every bond.
    """
    if len(ranks) != len(sizes) - 1 or any(rank < 1 for rank in ranks):
        raise TrainError(f"a train of {len(sizes)} cores needs {len(sizes) - 1} ranks of at least 1, found {ranks!r}")
    left = [1]
    for size, rank in zip(sizes, ranks, strict=False):
        left.append(min(rank, left[-1] * size))
    right = [1]
    for size, rank in zip(reversed(sizes), reversed(left[1:]), strict=False):
        right.append(min(rank, right[-1] * size))
    return tuple(reversed(right[1:]))


def entries(sizes: Sequence[int], ranks: Sequence[int]) -> int:
    """Return how many numbers the cores hold.

    >>> entries((4, 6, 5), (2, 3))
    59
    """
    return sum(a * size * b for (a, b), size in zip(pairwise((1, *ranks, 1)), sizes, strict=True))


def decompose(tensor: Tensor, ranks: Sequence[int]) -> Cores:
    """Return a train of given ranks near a tensor, by truncated singular value decompositions from left to right.

    All cores but the last have orthonormal columns as (r_{k-1} n_k, r_k) matrices. The error is at most sqrt(m - 1)
    times that of the best train of these ranks, and at most the root of the sum of the squared singular values that
    the unfoldings lose.

    Args:
        tensor: shape (n_1, ..., n_m), float32 or float64.
        ranks: (r_1, ..., r_{m-1}); what is more than admissible is left out.

    Raises:
        TrainError: if there is not one rank of at least 1 for every bond.

    Reference: Oseledets (2011), algorithm 1 and theorem 2.2.
    """
    sizes = tuple(tensor.shape)
    cores, rest, rank = [], tensor.reshape(1, -1), 1
    for size, wanted in zip(sizes, admissible(sizes, ranks), strict=False):
        left, values, right = leading_triplets(rest.reshape(rank * size, -1), wanted)
        cores.append(left.reshape(rank, size, wanted))
        rest, rank = values[:, None] * right, wanted
    return (*cores, rest.reshape(rank, sizes[-1], 1))


def spectra(tensor: Tensor) -> list[Tensor]:
    """Return the singular values of the unfolding at every bond, descending.

    Args:
        tensor: shape (n_1, ..., n_m).
    """
    sizes = tensor.shape
    rows = torch.tensor(sizes).cumprod(0).tolist()
    return [singular_values(tensor.reshape(count, -1)) for count in rows[:-1]]
