"""What an optimizer knows of one parameter, before and after a cut."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim import Adagrad, Optimizer
from torch.utils import _pytree as pytree

from pliant.compress.carry.passage import Heir
from pliant.compress.carry.slicing import CarryError, Slices, slices_beside
from pliant.compress.slices import without
from pliant.optim.precision import follow
from pliant.optim.sfw import SFW


@dataclass(frozen=True)
class Carrier:
    """The rule by which state follows its parameter.

    Args:
        optimizer: whose state it is.
        strict: whether state that cannot be carried is an error; otherwise its parameter starts afresh.
    """

    optimizer: Optimizer
    strict: bool

    def carry(
        self, name: str, parameter: Tensor, heir: Heir, *, whole: bool
    ) -> tuple[dict[str, Any] | None, list[str]]:
        """Return a copy of a parameter's state for its heir, and the keys that stay behind.

        A parameter that lost nothing keeps everything. Of another, tensors follow as `slices_beside` says, plain
        values are copied, and what else SFW keeps (the memory of an oracle) is dropped, since it is rebuilt in the
        next step.

        Args:
            name: of the parameter.
            parameter: before the cut.
            heir: what it becomes; not a new tensor.
            whole: whether nothing was lost by it, nor by those that make a point of a region with it.

        Returns:
            None in place of the state if the parameter starts afresh.

        Raises:
            CarryError: naming optimizer, parameter and key of what cannot be carried.
        """
        state: Mapping[str, Any] = self.optimizer.state.get(parameter, {})
        carried = copy.deepcopy(dict(state)) if whole else _sliced(state, parameter, heir.slices or ())
        lost = [key for key, value in carried.items() if value is _UNKNOWN]
        if lost and not isinstance(self.optimizer, SFW):
            self._refuse(lost[0], name, parameter)
            return None, list(state)
        for key in (key for key, value in state.items() if _is_copy(value, parameter) and key not in lost):
            carried[key] = follow(carried[key], heir.parameter.detach())
        return {key: value for key, value in carried.items() if key not in lost}, lost

    def _refuse(self, key: str, name: str, parameter: Tensor) -> None:
        if self.strict:
            raise CarryError(
                f"{type(self.optimizer).__name__} keeps {key!r} beside {name!r}, "
                f"{_describe(self.optimizer.state[parameter][key])}, and nothing says what of it belongs to slices of "
                f"a parameter of shape {tuple(parameter.shape)}; strict=False lets such parameters start afresh"
            )

    def start(self, group: Mapping[str, Any], parameter: Tensor) -> dict[str, Any]:
        """Return the state with which a parameter starts; nothing where the optimizer builds it in its first step.

        Adagrad builds it in its constructor, and in some releases of torch nowhere else.
        """
        if not isinstance(self.optimizer, Adagrad):
            return {}
        options = {key: group[key] for key in self.optimizer.defaults}
        return dict(Adagrad([parameter], **options).state[parameter])


_UNKNOWN = object()


def _sliced(state: Mapping[str, Any], parameter: Tensor, slices: Slices) -> dict[str, Any]:
    return {key: _left_of(value, parameter, slices) for key, value in state.items()}


def _left_of(value: object, parameter: Tensor, slices: Slices) -> object:
    if isinstance(value, Tensor):
        own = slices_beside(value.shape, parameter.shape, slices)
        return _UNKNOWN if own is None else without(value, own)
    return copy.deepcopy(value) if value is None or isinstance(value, bool | int | float | str) else _UNKNOWN


def _is_copy(value: object, parameter: Tensor) -> bool:
    """Tell whether a state tensor is the parameter itself in a wider format."""
    if not isinstance(value, Tensor) or value.shape != parameter.shape or not value.is_floating_point():
        return False
    return value.element_size() > parameter.element_size() and torch.equal(value.to(parameter.dtype), parameter)


def _describe(value: object) -> str:
    return f"of shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"


def holds(value: object, parameters: set[int]) -> bool:
    """Tell whether a nest of lists and dictionaries holds one of some tensors, given by id."""
    return any(id(leaf) in parameters for leaf in pytree.tree_leaves(value))
