"""DynamicRank: dynamical low-rank training with adaptive ranks (DLRT)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pliant.methods.around import Step, StepMap
from pliant.methods.targets import Target
from pliant.regions.orthogonal import orthonormal_columns
from pliant.regions.scaling import upcast
from pliant.regions.svd import leading_triplets


@dataclass(frozen=True)
class DynamicRank(StepMap):
    """Dynamical low-rank training: every step moves W = U S V^T along the manifold of low-rank matrices.

    The step of a basis-augmented integrator with step size lr and gradient G at W is

        K  =  U S - lr G V                  U1  =  orthonormal columns of [K, U]
        L  =  V S^T - lr G^T U              V1  =  orthonormal columns of [L, V]
        S1 =  U1^T (W - lr G) V1
        W  <- the best approximation of U1 S1 V1^T of the smallest rank r with  norm_2(s_{>r}) <= tolerance * norm_2(s)

    Since U1 and V1 contain U and V, the three sub-steps all start at W and share its one gradient. With the result
    Z = W - lr G of an ordinary step they read K = Z V, L = Z^T U, S1 = U1^T Z V1: DLRT is a map of the weights after
    the step of plain SGD. Around another optimizer its direction takes the place of G (published: momentum 0.1). Ranks
    start full, fall as far as the tolerance allows and may double in a step; what grows by less than the tolerance in
    a step does not grow.

    Weights and gradients are stored dense, so that the model keeps its architecture all along: this is DLRT's iteration
    and not its saving of memory during training. The rank is read back to the host in every step.

    Args:
        targets: the weights of low rank.
        tolerance: relative error of a truncation, 0 <= tolerance < 1; published: 0.05 to 0.2.
        largest: share of the full rank that is never exceeded, 0 < largest <= 1.

    Raises:
        ValueError: if a number is out of its range.

    Reference: Schotthoefer, Zangrando, Kusch, Ceruti, Tudisco, "Low-rank lottery tickets: finding efficient low-rank
    neural networks via matrix differential equations" (2022), algorithm 1; Ceruti, Kusch, Lubich, "A rank-adaptive
    robust integrator for dynamical low-rank approximation" (2022).
    """

    targets: tuple[Target, ...]
    tolerance: float = 0.1
    largest: float = 1.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.tolerance < 1.0:
            raise ValueError(f"tolerance must satisfy 0 <= tolerance < 1, found {self.tolerance!r}")
        if not 0.0 < self.largest <= 1.0:
            raise ValueError(f"largest must be a share of the rank, 0 < largest <= 1, found {self.largest!r}")

    def before(self, step: Step) -> None:
        pass

    def after(self, step: Step) -> None:
        for target in step.moving(self.targets):
            moved = upcast(target.matrices())
            with torch.autocast(moved.device.type, enabled=False):
                new = self._moved(moved, step.memory.setdefault(target.name, {}))
            target.write(new)

    def _moved(self, moved: Tensor, bases: dict[str, Any]) -> Tensor:
        """Return the matrices (groups, rows, cols) of low rank, and keep their bases."""
        left, right = _augmented(moved, bases)
        inner, values, outer = leading_triplets(left.mT @ moved @ right, min(left.shape[-1], right.shape[-1]))
        rank = min(self._rank(values), max(1, math.floor(self.largest * min(moved.shape[-2:]) + 0.5)))
        bases["left"] = left @ inner[..., :rank]
        bases["right"] = right @ outer.mT[..., :rank]
        return bases["left"] * values[..., None, :rank] @ bases["right"].mT

    def _rank(self, values: Tensor) -> int:
        """Return the smallest rank within the tolerance; that of the group that needs most, and at least 1."""
        squares = values.double().square()
        tails = squares.flip(-1).cumsum(-1).flip(-1)
        return max(1, int((tails > self.tolerance**2 * tails[..., :1]).sum(-1).max()))


def _augmented(moved: Tensor, bases: dict[str, Any]) -> tuple[Tensor, Tensor]:
    rows, cols = moved.shape[-2:]
    if not bases:
        return _basis(moved, rows), _basis(moved, cols)
    left, right = bases["left"].to(moved), bases["right"].to(moved)
    size = 2 * left.shape[-1]
    new_left = torch.cat((moved @ right, left), -1) if size < rows else None
    new_right = torch.cat((moved.mT @ left, right), -1) if size < cols else None
    return (
        _basis(moved, rows) if new_left is None else orthonormal_columns(new_left),
        _basis(moved, cols) if new_right is None else orthonormal_columns(new_right),
    )


def _basis(like: Tensor, size: int) -> Tensor:
    """Return the basis of the whole space: nothing to augment."""
    return torch.eye(size, dtype=like.dtype, device=like.device).expand(like.shape[0], size, size)
