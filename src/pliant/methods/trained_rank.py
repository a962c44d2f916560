"""TrainedRank: singular value decompositions, truncated by energy, every few steps of training (TRP)."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import NamedTuple, cast

import torch
from torch import Tensor

from pliant.methods.around import Step, StepMap
from pliant.methods.targets import Stack, Target, stacks
from pliant.regions.scaling import upcast
from pliant.regions.svd import leading_triplets
from pliant.sharding import whole_grad


@dataclass(frozen=True)
class TrainedRank(StepMap):
    """Trained rank pruning with nuclear gradient.

    In every `every`-th step, for the matrices W = U S V^T of every target with gradient G,

        G  <-  G + nuclear * U_r V_r^T                                  before the optimizer's step
        W  <-  U_r S_r V_r^T                                            after it, of the moved weights
        r   =  min {r : s_1^2 + ... + s_r^2 >= energy * norm_F(W)^2}    each time anew

    U_r V_r^T is a subgradient of the nuclear norm of the truncated weights.

    Args:
        targets: the weights that are truncated.
        every: steps from one truncation to the next, at least 1.
        energy: share of the squares of the singular values that stays, 0 < energy <= 1.
        nuclear: weight of the nuclear norm's gradient, at least 0.

    Raises:
        ValueError: if a number is out of its range.

    Reference: Xu, Li, Zhang, Wen, Wang, Qi, Chen, Lin, Xiong, "TRP: Trained Rank Pruning for Efficient Deep Neural
    Networks" (2020).
    """

    targets: tuple[Target, ...]
    every: int = 1
    energy: float = 0.9
    nuclear: float = 3e-4

    def __post_init__(self) -> None:
        if isinstance(self.every, bool) or not isinstance(self.every, int) or self.every < 1:
            raise ValueError(f"every must be a number of steps of at least 1, found {self.every!r}")
        if not 0.0 < self.energy <= 1.0:
            raise ValueError(f"energy must be the share that stays, 0 < energy <= 1, found {self.energy!r}")
        if not 0.0 <= self.nuclear < math.inf:
            raise ValueError(f"nuclear must be at least 0 and finite, found {self.nuclear!r}")

    def before(self, step: Step) -> None:
        if not self.nuclear or not self._due(step):
            return
        for stack in _wide(step.moving(self.targets)):
            found = truncated(stack.matrices, self.energy)
            factors = found.left * (found.values > 0).to(found.values.dtype).unsqueeze(-2) @ found.right
            parts = factors.split([member.axes.groups for member in stack.members])
            for member, part in zip(stack.members, parts, strict=True):
                grad = cast("Tensor", whole_grad(member.parameter))
                member.write_grad(torch.add(grad, member.shaped(part).to(grad), alpha=self.nuclear))

    def after(self, step: Step) -> None:
        if not self._due(step):
            return
        for stack in _wide(step.moving(self.targets)):
            found = truncated(stack.matrices, self.energy)
            stack.write(found.left * found.values.unsqueeze(-2) @ found.right)

    def _due(self, step: Step) -> bool:
        return (step.number + 1) % self.every == 0


class Truncated(NamedTuple):
    """A decomposition whose smallest values are zero: left (*, rows, n), values (*, n), right (*, n, cols)."""

    left: Tensor
    values: Tensor
    right: Tensor


def truncated(matrices: Tensor, energy: float) -> Truncated:
    """Return the decomposition of matrices with as few values as keep a share of the squares; the others are zero.

    Args:
        matrices: shape (*batch, rows, cols).
        energy: the share, 0 < energy <= 1; 1 keeps all.
    """
    left, values, right = leading_triplets(matrices, min(matrices.shape[-2:]))
    squares = values.double().square()
    before = squares.cumsum(-1) - squares
    kept = (before < energy * squares.sum(-1, keepdim=True)) | (energy == 1.0)
    return Truncated(left, torch.where(kept, values, 0.0), right)


def _wide(targets: Iterable[Target]) -> list[Stack]:
    return [replace(stack, matrices=upcast(stack.matrices)) for stack in stacks(targets)]
