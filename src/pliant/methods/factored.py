"""Factored: training goes on in a decomposed model, and ends as the plain one with the factors multiplied out."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import nn

from pliant.compress.factor import Factors, unsplit
from pliant.compress.surgery import replace
from pliant.methods.chain import Chain
from pliant.methods.change import ModuleChange

if TYPE_CHECKING:
    from pliant.compress import Cut, LowRank


@dataclass(frozen=True)
class Factored(ModuleChange):
    """Layers become the two thinner ones of a cut; collapsed, W = B A for a first factor A and a second B.

    The product is one of matrices in the reading of the cut's ranks, by channel or spatial.

    Args:
        compressor: what decomposes.
        cut: which ranks, chosen on the model that `apply` is given.
    """

    compressor: LowRank
    cut: Cut

    def apply(self, model: nn.Module) -> nn.Module:
        """Return the decomposed copy; singular values beyond the ranks of the cut are lost."""
        return self.compressor.realise(model, self.cut)

    def collapse(self, model: nn.Module) -> nn.Module:
        """Return a copy with plain layers in the place of factors."""
        copied = copy.deepcopy(model)
        names = [name for name, module in copied.named_modules() if isinstance(module, Factors)]
        return replace(copied, names, [merged(copied.get_submodule(name)) for name in names])


def merged(factors: nn.Module) -> nn.Module:
    """Return the one layer that does what two factors do, one after the other."""
    if isinstance(factors, Factors) and factors.spatial:
        return unsplit(factors)
    chain = Chain(factors.get_submodule("0"), factors.get_submodule("1"))
    return chain.train(factors.training).collapsed()
