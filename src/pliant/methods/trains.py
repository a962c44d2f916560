"""Trains: weights are trained as tensor trains, by the gradients of their cores."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pliant.compress.surgery import replace
from pliant.methods.change import ModuleChange
from pliant.sets import TensorTrainSet
from pliant.sets.naming import naming
from pliant.structure.shared import shared_layers
from pliant.tensor_train import TrainError, TTConv2d, TTLinear, as_train, check_layer


@dataclass(frozen=True)
class Trains(ModuleChange):
    """Layers become `TTLinear` and `TTConv2d`; collapsed, their cores are contracted.

    A train starts as the projection of the layer's weight, scaled to the norm of that weight: what a projection of
    random weights loses would be missing in the outputs of every layer.

    Args:
        sets: which trains stand for the weights, by the qualified names of their layers.

    Raises:
        TrainError: in `apply`, if there is no layer of a name, or one that is neither `nn.Linear` nor `nn.Conv2d` of
            one group, or shares its weight with another, which would keep the old one. The message names the layer.
        SetError: in `apply`, if a set does not fit the weight of its layer, which is named.

    Reference: Novikov, Podoprikhin, Osokin, Vetrov (2015); Garipov, Podoprikhin, Novikov, Vetrov (2016).
    """

    sets: Mapping[str, TensorTrainSet]

    def apply(self, model: nn.Module) -> nn.Module:
        modules, shared = dict(model.named_modules(remove_duplicate=False)), shared_layers(model)
        made = []
        for name, train in self.sets.items():
            with naming(name):
                if name not in modules:
                    raise TrainError("there is no layer of this name in the model")
                if name in shared:
                    raise TrainError(f"it {shared[name]}, and a train stands for one layer alone: leave it dense")
                made.append(_trained(modules[name], train))
        return replace(copy.deepcopy(model), list(self.sets), made)

    def collapse(self, model: nn.Module) -> nn.Module:
        copied = copy.deepcopy(model)
        trains = {name: layer for name, layer in copied.named_modules() if isinstance(layer, TTLinear | TTConv2d)}
        return replace(copied, list(trains), [layer.dense() for layer in trains.values()])


def _trained(layer: nn.Module, train: TensorTrainSet) -> TTLinear | TTConv2d:
    weight = check_layer(layer).weight.detach()
    point = train.project(weight)
    first, *others = point.factors
    return as_train(layer, train.reading.modes(weight.shape), (first * _lost(weight, point.dense), *others))


def _lost(weight: Tensor, found: Tensor) -> Tensor:
    """Return |weight| / |found|; 1 where nothing was found."""
    size: Tensor = torch.linalg.vector_norm(found)
    return torch.where(size > 0, torch.linalg.vector_norm(weight) / size, 1.0)
