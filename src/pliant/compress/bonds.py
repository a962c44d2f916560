"""Bonds: the weight of one layer as a tensor train, what its atoms are, and what the train costs."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn

from pliant.compress.cut import CutError, Kept
from pliant.compress.probe import Use
from pliant.tensor_train import (
    Cores,
    Form,
    Modes,
    Reading,
    TrainError,
    cheapest,
    contract,
    decompose,
    full_ranks,
)

Ranks = tuple[int, ...]


class Saved(NamedTuple):
    """What a train saves of a layer; nothing where it would cost more in one of both."""

    parameters: int
    macs: int


@dataclass(frozen=True)
class Bonds:
    """A weight that is read as a tensor with a bond between any two neighbouring dimensions.

    Args:
        shape: of the weight.
        modes: how it is read.
    """

    shape: tuple[int, ...]
    modes: Modes

    @staticmethod
    def of(layer: nn.Module, reading: Reading) -> Bonds:
        """Describe the weight of a layer."""
        shape = tuple(layer.get_parameter("weight").shape)
        return Bonds(shape, reading.modes(shape))

    @property
    def full(self) -> Ranks:
        """Return the largest rank of every bond."""
        return full_ranks(self.modes.sizes)

    @property
    def atoms(self) -> int:
        """Return the number of singular values, all bonds together."""
        return sum(self.full)

    def kept(self, ranks: Ranks) -> Kept:
        """Return the atoms that stay: the first ones of every bond."""
        starts = accumulate(self.full, initial=0)
        return tuple(start + atom for start, rank in zip(starts, ranks, strict=False) for atom in range(rank))

    def ranks(self, kept: Kept, layer: str) -> Ranks:
        """Return the ranks that a cut gives.

        Args:
            kept: atoms that stay.
            layer: its name, for the message.

        Raises:
            CutError: if the atoms are not the first ones of every bond, or a rank is wider than can be used.
        """
        listed = () if isinstance(kept, int) else kept
        ends = list(accumulate(self.full, initial=0))
        ranks = tuple(sum(low <= atom < high for atom in listed) for low, high in pairwise(ends))
        try:
            self.form(ranks)
        except TrainError as error:
            raise CutError(f"layer {layer!r}: {error}") from error
        if self.kept(ranks) != kept:
            raise CutError(f"layer {layer!r}: the cut must list the first atoms of every bond, found others")
        return ranks

    def form(self, ranks: Ranks) -> Form:
        """Return the train of these ranks, without values."""
        return Form(self.shape, self.modes, ranks)

    def tensor(self, layer: nn.Module) -> Tensor:
        """Return a layer's weight as a tensor, in float64."""
        return self.modes.fold(layer.get_parameter("weight").detach().double())

    def cores(self, layer: nn.Module, ranks: Ranks) -> Cores:
        """Return the train of these ranks for a layer's weight, in float64."""
        return decompose(self.tensor(layer), ranks)

    def truncate(self, layer: nn.Module, ranks: Ranks) -> None:
        """Write the train into a layer's weight, in place."""
        dense = self.modes.unfold(contract(self.cores(layer, ranks)), self.shape)
        with torch.no_grad():
            layer.get_parameter("weight").copy_(dense)

    def saved(self, layer: nn.Module, ranks: Ranks, use: Use) -> Saved:
        """Return what the train saves of a layer that is used so."""
        form, entries = self.form(ranks), layer.get_parameter("weight").numel()
        way = cheapest(form, layer.stride if isinstance(layer, nn.Conv2d) else ())
        fewer = entries - form.entries
        cheaper = entries * use.entry_uses(layer) - way.macs(form, use.inputs, use.outputs)
        return Saved(fewer, cheaper) if fewer > 0 and cheaper > 0 else Saved(0, 0)
