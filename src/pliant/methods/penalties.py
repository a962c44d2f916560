"""Penalties on the weights of a model: which layers, how much on each, and the three ways to train with them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

import torch

from pliant.methods.around import Step, StepMap
from pliant.methods.targets import Target, filter_targets, matrix_targets
from pliant.regions import Filters, Penalty, Singular, SparseGroupLasso, TopK
from pliant.sharding import put_grad, whole, whole_grad

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from torch import Tensor, nn

    from pliant.optim import Regulariser


class Term(ABC):
    """A penalty before a layer is known: which weights it is on, and what it is on each of them."""

    @abstractmethod
    def targets(self, model: nn.Module, *, first: bool, ignore: Sequence[str]) -> tuple[Target, ...]:
        """Return the weights; `first` and `ignore` as for `pliant.methods.matrix_targets`."""

    @abstractmethod
    def on(self, target: Target, factor: float) -> Regulariser:
        """Return the penalty of one weight, its own weight multiplied by a factor."""


@dataclass(frozen=True)
class GroupLasso(Term):
    """weight * [(1 - alpha) sqrt(P_l) sum_n norm_2(w_n) + alpha norm_1(w)] over the filters of every convolution l.

    Where there is no convolution: over the neurons of every linear layer but the last. P_l is the size of a filter.

    Args:
        weight: at least 0.
        alpha: share of the single weights, in [0, 1]; above 0 it is the sparse group lasso.
    """

    weight: float
    alpha: float = 0.0

    def targets(self, model: nn.Module, *, first: bool, ignore: Sequence[str]) -> tuple[Target, ...]:
        """All convolutions, or all linear layers but the last."""
        return filter_targets(model, first=first, ignore=ignore)

    def on(self, target: Target, factor: float) -> Regulariser:
        """Sparse group lasso over the layer's output channels."""
        return SparseGroupLasso(factor * self.weight, self.alpha, Filters(target.axes))


@dataclass(frozen=True)
class InputLasso(Term):
    """weight * sqrt(P_l) sum_c norm_2(w_c) over the input channels of the same layers, those in groups left out.

    With `GroupLasso` this is structured sparsity learning: filters and channels.

    Args:
        weight: at least 0.

    Reference: Wen, Wu, Wang, Chen and Li, "Learning Structured Sparsity in Deep Neural Networks" (2016), eq. 2.
    """

    weight: float

    def targets(self, model: nn.Module, *, first: bool, ignore: Sequence[str]) -> tuple[Target, ...]:
        """All convolutions without groups, or all linear layers but the last."""
        found = filter_targets(model, first=first, ignore=ignore)
        return tuple(target for target in found if target.axes.groups == 1)

    def on(self, target: Target, factor: float) -> Regulariser:
        """Group lasso over the layer's input channels."""
        return SparseGroupLasso(factor * self.weight, 0.0, Filters(replace(target.axes, out=1 - target.axes.out)))


@dataclass(frozen=True)
class NuclearNorm(Term):
    """weight * norm_*(mat(W_l)) over every convolution and linear layer l but the last.

    Args:
        weight: at least 0.
    """

    weight: float

    def targets(self, model: nn.Module, *, first: bool, ignore: Sequence[str]) -> tuple[Target, ...]:
        """All convolutions and linear layers but the last."""
        return matrix_targets(model, first=first, ignore=ignore)

    def on(self, target: Target, factor: float) -> Regulariser:
        """Sum of the layer's singular values."""
        return Penalty(TopK(1), Singular(target.axes), factor * self.weight)


@dataclass(frozen=True)
class Early:
    """Smaller penalties on the first layers, which have few weights and feed all others.

    Args:
        layers: how many, counted in the order of the model's modules.
        factor: on their weights, at least 0.
    """

    layers: int = 0
    factor: float = 1.0

    def at(self, place: int) -> float:
        """Return the factor of a layer by its place among a term's layers, 0 for the first."""
        return self.factor if place < self.layers else 1.0


@dataclass(frozen=True)
class Penalised:
    """A weight and its penalties, in order."""

    target: Target
    penalties: tuple[Regulariser, ...]

    @property
    def parameter(self) -> Tensor:
        """The weight."""
        return self.target.parameter


def penalised(
    model: nn.Module,
    terms: Sequence[Term],
    *,
    first: bool = True,
    early: Early | None = None,
    ignore: Sequence[str] = (),
) -> tuple[Penalised, ...]:
    """Return every weight that some term is on, with the penalties of all of them in the order of the terms.

    Args:
        model: any module; frozen weights are left out.
        terms: at least one.
        first: whether the first layer is penalised at all.
        early: what the first layers get.
        ignore: patterns of layer names that are left out.

    Raises:
        ValueError: there is no term, or no layer for one.
    """
    if not terms:
        raise ValueError("terms must hold at least one penalty such as NuclearNorm(1e-3), found none")
    targets: dict[str, Target] = {}
    found: dict[str, list[Regulariser]] = {}
    for term in terms:
        for place, target in enumerate(term.targets(model, first=first, ignore=ignore)):
            targets.setdefault(target.name, target)
            found.setdefault(target.name, []).append(term.on(target, (early or Early()).at(place)))
    return tuple(Penalised(target, tuple(found[name])) for name, target in targets.items())


def penalised_groups(model: nn.Module, weights: Iterable[Penalised]) -> list[dict[str, Any]]:
    """Return parameter groups for `ProximalSGD`: one for each penalised weight, one for all other parameters."""
    of = {id(weight.parameter): weight.penalties for weight in weights}
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    groups = [{"params": [(name, p)], "penalties": of[id(p)]} for name, p in named if id(p) in of]
    return [*groups, {"params": [(name, p) for name, p in named if id(p) not in of], "penalties": ()}]


@dataclass(frozen=True)
class Subgradient(StepMap):
    """Penalties as a part of the loss: their subgradients are added to the gradients, for any optimizer.

        g  <-  g + s,    s a subgradient of the penalties at w

    For a filter that is w_n / norm_2(w_n), for singular values U V'; 0 where the weight is 0. Nothing becomes exactly
    zero on this way; `ProximalSGD` is the way on which it does.

    Args:
        weights: and their penalties.
    """

    weights: tuple[Penalised, ...]

    def before(self, step: Step) -> None:
        """Add the subgradients."""
        for weight in step.moving(self.weights):
            here = whole(weight.parameter).detach().clone().requires_grad_()
            with torch.enable_grad():
                value = torch.stack([penalty.value(here) for penalty in weight.penalties]).sum()
            (slope,) = torch.autograd.grad(value, here)
            put_grad(weight.parameter, cast("Tensor", whole_grad(weight.parameter)).add_(slope))

    def after(self, step: Step) -> None:
        """Do nothing."""

    def penalty(self) -> Tensor:
        """Return the regulariser at the weights of now."""
        values = [penalty.value(whole(w.parameter).detach()) for w in self.weights for penalty in w.penalties]
        return sum((value.to(values[0].device) for value in values[1:]), values[0])
