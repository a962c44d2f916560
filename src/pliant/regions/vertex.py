"""Vertices in compact form, so that a step toward one never needs a dense copy of it."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pliant.regions.axes import Axes


class Move(ABC):
    """Where to take a tensor of weights, (*batch, *shape). Factors and step sizes have the shape of the batch."""

    @abstractmethod
    def lerp_into(self, x: Tensor, alpha: Tensor) -> None:
        """Set x to (1 - alpha) x + alpha v, in place."""


class Vertex(Move):
    """One tensor of a vertex, in compact form.

    `asked` is norm_2 of the tensor that the oracle was asked about, shape (*batch,), where it came up on the way.
    """

    asked: Tensor | None = None

    @abstractmethod
    def dense(self) -> Tensor:
        """Return the vertex as a tensor that shares no memory with what it was made from."""

    @abstractmethod
    def times(self, factor: Tensor | float) -> Vertex:
        """Return the vertex multiplied by a factor."""

    @abstractmethod
    def measure(self, x: Tensor) -> tuple[Tensor, Move]:
        """Return norm_2(x - v), and the move of this x toward v that is cheapest once this is known.

        The distance is exact up to rounding also next to the vertex. May use up memory that the vertex alone holds:
        afterwards only the move is good for anything.
        """


@dataclass(frozen=True)
class Away(Move):
    """The move toward x - away of the x that it was made for: x - alpha away."""

    away: Tensor

    def lerp_into(self, x: Tensor, alpha: Tensor) -> None:
        x.addcmul_(self.away, across(-alpha, x.ndim))


@dataclass(frozen=True)
class Product(Vertex):
    """The vertex values * factors: whole tensors, chosen filters, chosen entries.

    Args:
        values: shape (*batch, *shape); may be the gradient itself.
        factors: of as many dimensions, broadcast against the values.
        batch: number of batch dimensions.
        own: whether nobody else needs the values any more.
    """

    values: Tensor
    factors: Tensor
    batch: int
    own: bool = False

    def dense(self) -> Tensor:
        return self.values * self.factors

    def times(self, factor: Tensor | float) -> Product:
        factors = self.factors * _spread(factor, self.values.ndim)
        return Product(self.values, factors, self.batch, own=self.own)

    def measure(self, x: Tensor) -> tuple[Tensor, Move]:
        out = self.values if self.own else None
        away = torch.addcmul(x, self.values, self.factors, value=-1, out=out)
        return lengths(away, self.batch), Away(away)

    def lerp_into(self, x: Tensor, alpha: Tensor) -> None:
        weight = across(alpha, x.ndim)
        x.mul_(1 - weight).addcmul_(self.values, self.factors * weight)


@dataclass(frozen=True)
class Channels(Vertex):
    """The vertex that is zero but for a few entries of its first dimension, its output channels: values * factors.

    Args:
        index: numbers of these channels, shape (k,).
        values: theirs, shape (k, *rest).
        factors: of the values, of as many dimensions, broadcast against them.
        shape: of the vertex, (channels, *rest); there are no batch dimensions but those of size 1.
        lead: number of batch dimensions of size 1 in front.
        asked: as for every vertex.
    """

    index: Tensor
    values: Tensor
    factors: Tensor
    shape: Sequence[int]
    lead: int
    asked: Tensor | None = None

    def dense(self) -> Tensor:
        zeros = torch.zeros((*[1] * self.lead, *self.shape), dtype=self.values.dtype, device=self.values.device)
        self._channels(zeros).index_copy_(0, self.index, self.values * self.factors)
        return zeros

    def times(self, factor: Tensor | float) -> Channels:
        scalar = factor.reshape(()) if isinstance(factor, Tensor) else factor
        return Channels(self.index, self.values, self.factors * scalar, self.shape, self.lead, self.asked)

    def measure(self, x: Tensor) -> tuple[Tensor, Move]:
        rows = self._channels(x)
        norms = torch.linalg.vector_norm(rows.reshape(rows.shape[0], -1), dim=-1)  # an entry is a channel of a vector
        chosen = rows.index_select(0, self.index).addcmul_(self.values, self.factors, value=-1)
        norms.index_copy_(0, self.index, torch.linalg.vector_norm(chosen.reshape(chosen.shape[0], -1), dim=-1))
        return torch.linalg.vector_norm(norms).reshape([1] * self.lead), self

    def lerp_into(self, x: Tensor, alpha: Tensor) -> None:
        weight = alpha.reshape(())
        x.mul_(1 - weight)
        self._channels(x).index_add_(0, self.index, self.values * (self.factors * weight))

    def _channels(self, x: Tensor) -> Tensor:
        return x[(0,) * self.lead]


@dataclass(frozen=True)
class LowRank(Vertex):
    """The vertex left @ right, block by block, read as a weight.

    Args:
        left: shape (*batch, groups, rows, k).
        right: shape (*batch, groups, k, cols).
        axes: how the weight is read as matrices.
        shape: of the weight, without batch dimensions.
    """

    left: Tensor
    right: Tensor
    axes: Axes
    shape: Sequence[int]

    @property
    def batch(self) -> int:
        """Number of batch dimensions."""
        return self.left.ndim - 3

    def dense(self) -> Tensor:
        with full_precision(self.left.device):
            product = self.left @ self.right
        return self.axes.from_matrices(product, self.shape, self.batch)

    def times(self, factor: Tensor | float) -> LowRank:
        return LowRank(self.left * _spread(factor, self.left.ndim), self.right, self.axes, self.shape)

    def measure(self, x: Tensor) -> tuple[Tensor, Move]:
        matrices = self.axes.to_matrices(x, self.batch)
        left, right = self.left.flatten(0, -3), self.right.flatten(0, -3)
        away = torch.baddbmm(matrices.flatten(0, -3), left, right, alpha=-1)
        away = self.axes.from_matrices(away.reshape(matrices.shape), self.shape, self.batch)
        return lengths(away, self.batch), Away(away)

    def lerp_into(self, x: Tensor, alpha: Tensor) -> None:
        weight = across(alpha, x.ndim)
        x.mul_(1 - weight)
        in_order = self.axes.out == 0 and not self.axes.spatial
        if in_order and x.is_contiguous():  # then the matrices are a view of the weight
            matrices = self.axes.to_matrices(x, self.batch).flatten(0, -3)
            left = self.left * across(alpha, self.left.ndim)
            matrices.baddbmm_(left.flatten(0, -3), self.right.flatten(0, -3))
        else:
            x.add_(self.dense().mul_(weight))


ROW = 1024


def full_precision(device: torch.device) -> AbstractContextManager[Any]:
    """Return a context without autocast; where there is none to leave, entering it costs next to nothing."""
    return torch.autocast(device.type, enabled=False) if torch.is_autocast_enabled(device.type) else nullcontext()


def lengths(x: Tensor, batch: int) -> Tensor:
    """Return Euclidean norms over all but the batch dimensions, shape (*batch,).

    Long tensors are reduced row by row: one sum of a million squares in float32 is 1e-5 off, more than a vertex may
    leave its region by.
    """
    flat = x.reshape((*x.shape[:batch], math.prod(x.shape[batch:])))
    n = flat.shape[-1]
    if n <= ROW:
        return torch.linalg.vector_norm(flat, dim=-1)
    rows = flat[..., : n - n % ROW]
    norms = torch.linalg.vector_norm(rows.reshape((*rows.shape[:-1], -1, ROW)), dim=-1)
    if n % ROW:
        norms = torch.cat([norms, torch.linalg.vector_norm(flat[..., n - n % ROW :], dim=-1, keepdim=True)], dim=-1)
    return torch.linalg.vector_norm(norms, dim=-1)


def across(factor: Tensor, ndim: int) -> Tensor:
    """Return a factor per batch entry with dimensions of size 1 appended, so that it multiplies `ndim` dimensions."""
    return factor.reshape((*factor.shape, *[1] * (ndim - factor.ndim)))  # a tuple: scalars have no dimensions


def _spread(factor: Tensor | float, ndim: int) -> Tensor | float:
    return across(factor, ndim) if isinstance(factor, Tensor) else factor
