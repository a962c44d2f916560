"""Problem: what is minimised and how, without the blocks themselves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pliant.bcd.chain import Chain
from pliant.bcd.losses import Loss
from pliant.bcd.modes import Mode
from pliant.bcd.penalties import Penalties
from pliant.sets import Point, WeightSet

Points = Mapping[int, Point]  # the compressed copies, by block


@dataclass(frozen=True, eq=False)
class Problem:
    """A chain under penalties.

    Args:
        chain: the network.
        sets: where the copies of weights lie, by block; weights without a set stay dense.
        penalties: of this sweep.
        loss: of the outputs.
        mode: of copies and weights.
        chunk: samples that are worked on at a time, at least 1: what bounds the memory beside the blocks.
    """

    chain: Chain
    sets: Mapping[int, WeightSet]
    penalties: Penalties
    loss: Loss
    mode: Mode
    chunk: int
