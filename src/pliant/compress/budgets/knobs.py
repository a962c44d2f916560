"""Knobs: in which order the atoms of a group or a layer leave, and what is lost with them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from pliant.compress.budgets.problem import Counts, Knob, Numbers
from pliant.structure.channels import ChannelGroup, Positions, Regular, Role

_LEAST = 1e-12  # a share that counts as nothing


@dataclass(frozen=True, eq=False)
class GroupKnob:
    """A channel group, and the order in which its atoms leave.

    Args:
        group: the group.
        order: all its atoms, the first to leave first, shape (atoms,).
    """

    group: ChannelGroup
    order: Sequence[int]

    def lost(self, positions: Positions) -> Counts:
        """Return how many positions are lost, depending on how many atoms stay, shape (atoms + 1,)."""
        widths = np.zeros(len(self.order), dtype=np.int64)
        covered = list(positions.covers())
        if isinstance(positions, Regular):
            widths[covered] = positions.total // len(covered)
        else:
            widths[covered] = [len(positions.of([atom])) for atom in covered]
        return np.concatenate([[0], np.cumsum(widths[list(self.order)])])[::-1]


def group_knob(group: ChannelGroup, scores: Tensor, order: Sequence[int], levels: Sequence[int]) -> Knob:
    """Return the knob of a channel group.

    Removing channels takes rows of the layers that make them and columns of those that read them: with s the share of
    the squared scores that leaves and n the number of these layers, the loss is -n log(1 - s).

    Args:
        group: the group.
        scores: shape (atoms,).
        order: all atoms, the first to leave first.
        levels: counts that may stay, ascending, the last of them all atoms.
    """
    squares = scores.double().square()[list(order)]
    layers = len(group.of(Role.OUTPUT, Role.INPUT))
    return Knob(group.name, np.array(levels), layers * _losses(squares.numpy(), levels))


def given_knob(group: ChannelGroup, scores: Tensor, order: Sequence[int], levels: Sequence[int]) -> Knob:
    """Return the knob of a channel group whose squared scores are losses that add up; see `group_knob`."""
    leaving = np.concatenate([[0.0], np.cumsum(scores.double().square()[list(order)].numpy())])
    return Knob(group.name, np.array(levels), np.array([leaving[len(order) - level] for level in levels]))


def rank_knob(name: str, spectrum: Tensor, minimum: int) -> Knob:
    """Return the knob of a layer's rank.

    With s the share of the squared Frobenius norm that leaves, the loss is -log(1 - s).

    Args:
        name: of the layer.
        spectrum: singular values, descending, shape (groups, n).
        minimum: smallest rank.
    """
    squares = spectrum.double().square().sum(0).flip(0)
    levels = list(range(min(minimum, len(squares)), len(squares) + 1))
    return Knob(name, np.array(levels), _losses(squares.numpy(), levels))


def _losses(squares: Numbers, levels: Sequence[int]) -> Numbers:
    """Return -log of the share that stays at every level, of squares in the order in which they leave.

    Layers follow each other, so that the shares of a signal which they let through multiply.
    """
    left = np.concatenate([np.cumsum(squares[::-1])[::-1], [0.0]])
    total = left[0] if left[0] > 0 else 1.0
    stay = np.array([left[len(squares) - level] for level in levels]) / total
    return -np.log(np.maximum(stay, _LEAST)) if left[0] > 0 else np.zeros(len(levels))
