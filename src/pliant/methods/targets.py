"""Targets: the weights that a method acts on, and how each is read as matrices."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from pliant.sharding import put, put_grad, whole
from pliant.structure.matricise import axes_of
from pliant.structure.rules import filter_layers, ignored, matrix_layers
from pliant.structure.unfit import refuse_unnamed

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from torch import Tensor, nn

    from pliant.regions.axes import Axes


@dataclass(frozen=True)
class Target:
    """A weight and its matrices, whose rows are output channels.

    Args:
        name: of the layer, qualified.
        parameter: the weight, such as (out, in, kh, kw).
        axes: which of its axes are which.
    """

    name: str
    parameter: nn.Parameter
    axes: Axes

    def matrices(self, like: Tensor | None = None) -> Tensor:
        """Return (groups, rows, cols) of the weight, or of a tensor of its shape such as its gradient; detached.

        Of sharded tensors the whole, on every process. Collective then.
        """
        return self.axes.to_matrices(whole(self.parameter if like is None else like).detach())

    def shaped(self, matrices: Tensor) -> Tensor:
        """Return matrices (groups, rows, cols) in the shape of the weight."""
        return self.axes.from_matrices(matrices, self.parameter.shape)

    @torch.no_grad()
    def write(self, matrices: Tensor) -> None:
        """Set the weight to matrices (groups, rows, cols), in place; where it is sharded, this process's part."""
        put(self.parameter, self.shaped(matrices))

    def write_grad(self, grad: Tensor) -> None:
        """Set the gradient to a tensor of the weight's shape and dtype; where it is sharded, this process's part."""
        put_grad(self.parameter, grad)


@dataclass(frozen=True)
class Stack:
    """Targets whose matrices have one shape, so that all of them are worked on in one call.

    Args:
        members: the targets, in order.
        matrices: theirs, one behind the other, shape (sum of groups, rows, cols).
    """

    members: tuple[Target, ...]
    matrices: Tensor

    def spread(self, values: Sequence[float | Tensor]) -> Tensor:
        """Return one value a member as (sum of groups, 1, 1), ready to multiply the matrices."""
        each = [
            torch.as_tensor(value, dtype=self.matrices.dtype, device=self.matrices.device).expand(member.axes.groups)
            for member, value in zip(self.members, values, strict=True)
        ]
        return torch.cat(each).reshape(-1, 1, 1)

    def write(self, matrices: Tensor) -> None:
        """Set the members' weights to changed matrices, in place."""
        parts = matrices.split([member.axes.groups for member in self.members])
        for member, part in zip(self.members, parts, strict=True):
            member.write(part)


def stacks(targets: Iterable[Target]) -> list[Stack]:
    """Return the targets grouped by the shape, dtype and device of their matrices."""
    alike: dict[object, list[Target]] = {}
    for target in targets:
        p = target.parameter
        alike.setdefault((target.axes.matrix_shape(p.shape)[1:], p.dtype, p.device), []).append(target)
    return [Stack(tuple(same), torch.cat([target.matrices() for target in same])) for same in alike.values()]


def matrix_targets(
    model: nn.Module, *, first: bool = True, last: bool = False, ignore: Sequence[str] = ()
) -> tuple[Target, ...]:
    """Return the weights of all convolutions and linear layers: those that a low-rank method acts on.

    Args:
        model: any module; frozen weights are left out.
        first: whether the first of these layers, in the order of the model's modules, is one of them.
        last: whether the last linear layer, which emits the classes, is one of them.
        ignore: patterns of layer names that are left out.

    Raises:
        ValueError: if no layer is left, a weight is no parameter but computed from others, or the model is wrapped
            (`torch.compile`, `DistributedDataParallel`), so that no layer has a name of its own.
    """
    return _targets(model, matrix_layers(model, last=last), first, ignore)


def filter_targets(model: nn.Module, *, first: bool = True, ignore: Sequence[str] = ()) -> tuple[Target, ...]:
    """Return the weights whose output channels a filter method acts on: of all convolutions.

    Where there is no convolution: of all linear layers but the last.

    Args:
        model: any module; frozen weights are left out.
        first: whether the first of these layers, in the order of the model's modules, is one of them.
        ignore: patterns of layer names that are left out.

    Raises:
        ValueError: if no layer is left, a weight is no parameter but computed from others, or the model is wrapped
            (`torch.compile`, `DistributedDataParallel`), so that no layer has a name of its own.
    """
    return _targets(model, filter_layers(model), first, ignore)


def _targets(model: nn.Module, layers: dict[str, nn.Module], first: bool, ignore: Sequence[str]) -> tuple[Target, ...]:
    refuse_unnamed(model)
    kept = dict(list(layers.items())[0 if first else 1 :])
    found: dict[int, Target] = {}  # a weight that several layers share is one target, by the first of their names
    for name, layer in ignored(model, kept, ignore).items():
        weight = layer.get_parameter("weight")
        found.setdefault(id(weight), Target(name, weight, axes_of(layer, "weight")))
    return tuple(found.values())
