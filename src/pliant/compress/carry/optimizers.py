"""Optimizers that go on in the smaller model, with all that they know of what is left."""

from __future__ import annotations

import copy
from dataclasses import dataclass

from torch import nn
from torch.optim import Optimizer

from pliant.compress.carry.luggage import CarryReport, pack
from pliant.compress.cut import Cut


@dataclass(frozen=True)
class Carried:
    """An optimizer of the smaller model, and the report."""

    optimizer: Optimizer
    report: CarryReport


def carry_over(optimizer: Optimizer, model: nn.Module, smaller: nn.Module, cut: Cut, *, strict: bool = True) -> Carried:
    """Return an optimizer that goes on in the smaller model; the one given is left as it is.

    It is of the same class, with the same groups, options and state; momentum buffers and the like lose the slices
    that the parameters lost. Regions of `SFW` keep their radius, and k stays the count that it was. So training goes
    on as it would have gone on with the removed atoms held at zero. Hooks and schedulers stay with the old optimizer:
    see `carry_scheduler`, or `move_optimizer`, which needs neither.

    Args:
        optimizer: any torch optimizer over parameters of the model; of one that goes around another one, such as
            `RandomCut` or a wrapper of accelerate's, the innermost.
        model: before the cut.
        smaller: what `realise` returned for it.
        cut: the cut.
        strict: whether state of which nobody knows what belongs to a slice is an error; otherwise the parameter
            starts with fresh state.

    Raises:
        CarryError: naming the optimizer, parameter or state that cannot follow.
    """
    luggage = pack(optimizer, model, smaller, cut.removed_slices(), strict=strict)
    groups = [
        {key: copy.deepcopy(value) for key, value in group.items() if key not in new} | new
        for group, new in zip(optimizer.param_groups, luggage.groups, strict=True)
    ]
    twin = object.__new__(type(optimizer))
    twin.__setstate__({"defaults": copy.deepcopy(optimizer.defaults), "state": luggage.state, "param_groups": groups})
    # What a constructor stored beside the groups comes along. What shadows a method was put there by a scheduler or a
    # profiler and is bound to the old optimizer.
    own = {name for name in vars(optimizer) if name not in vars(twin) and name not in dir(type(optimizer))}
    vars(twin).update({name: vars(optimizer)[name] for name in own})
    return Carried(twin, luggage.report())


def move_optimizer(
    optimizer: Optimizer, model: nn.Module, smaller: nn.Module, cut: Cut, *, strict: bool = True
) -> CarryReport:
    """Make an optimizer go on in the smaller model, in place, so that whatever holds it stays valid.

    Schedulers, gradient scalers, hooks and training loops need no change. Everything else is as for `carry_over`. If
    it raises, nothing has changed.

    Args:
        optimizer: any torch optimizer over parameters of the model; of one that goes around another one, such as
            `RandomCut` or a wrapper of accelerate's, the innermost.
        model: before the cut.
        smaller: what `realise` returned for it.
        cut: the cut.
        strict: as for `carry_over`.

    Raises:
        CarryError: naming the optimizer, parameter or state that cannot follow.
    """
    luggage = pack(optimizer, model, smaller, cut.removed_slices(), strict=strict)
    for group, new in zip(optimizer.param_groups, luggage.groups, strict=True):
        group.update(new)
    optimizer.__setstate__({"state": luggage.state, "param_groups": optimizer.param_groups})
    return luggage.report()
