"""Averages of weights that go on in the smaller model."""

from __future__ import annotations

import copy

from torch import nn
from torch.optim.swa_utils import AveragedModel

from pliant.compress.carry.slicing import CarryError
from pliant.compress.compressor import Compressor
from pliant.compress.cut import Cut


def carry_module(average: nn.Module, cut: Cut, compressor: Compressor) -> nn.Module:
    """Return an average of a model's weights after the cut of that model: it loses the very slices that the model lost.

    Under `UnstructuredPruning`, which takes no slices out, the average's own smallest weights become zero.

    Args:
        average: an `AveragedModel`, whose averaging function and number of averaged models are kept, or a plain copy
            of the model that was cut. It is left as it is.
        cut: the cut of the model.
        compressor: which made it.

    Raises:
        CarryError: if the cut replaces weights by factors: those of an average belong to another basis than those of
            the model, so that their mean would mean nothing.
        CutError: if the cut does not fit.
    """
    if isinstance(average, AveragedModel):
        carried = copy.deepcopy(average)
        carried.module = carry_module(average.module, cut, compressor)
        return carried
    smaller = compressor.realise(average, cut)
    new = {name for name, _ in smaller.named_parameters()} - {name for name, _ in average.named_parameters()}
    if new:
        raise CarryError(
            f"the cut replaces weights by factors such as {min(new)!r}; an average of factors is no average of "
            "weights: start a new one from the smaller model, AveragedModel(smaller)"
        )
    return smaller
