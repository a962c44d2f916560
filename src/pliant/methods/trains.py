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
from pliant.tensor_train import TTConv2d, TTLinear, as_train


@dataclass(frozen=True)
class Trains(ModuleChange):
    """Layers become `TTLinear` and `TTConv2d`; collapsed, their cores are contracted.

    A train starts as the projection of the layer's weight, scaled to the norm of that weight: what a projection of
    random weights loses would be missing in the outputs of every layer.

    Args:
        sets: which trains stand for the weights, by the qualified names of their layers.

    Raises:
        TrainError: in `apply`, if a layer is neither `nn.Linear` nor `nn.Conv2d` of one group.

    Reference: Novikov, Podoprikhin, Osokin, Vetrov (2015); Garipov, Podoprikhin, Novikov, Vetrov (2016).
    """

    sets: Mapping[str, TensorTrainSet]

    def apply(self, model: nn.Module) -> nn.Module:
        copied = copy.deepcopy(model)
        names = list(self.sets)
        replace(copied, names, [_trained(copied.get_submodule(name), self.sets[name]) for name in names])
        return copied

    def collapse(self, model: nn.Module) -> nn.Module:
        copied = copy.deepcopy(model)
        trains = {name: layer for name, layer in copied.named_modules() if isinstance(layer, TTLinear | TTConv2d)}
        replace(copied, list(trains), [layer.dense() for layer in trains.values()])
        return copied


def _trained(layer: nn.Module, train: TensorTrainSet) -> TTLinear | TTConv2d:
    weight = layer.get_parameter("weight").detach()
    point = train.project(weight)
    first, *others = point.factors
    return as_train(layer, train.reading.modes(weight.shape), (first * _lost(weight, point.dense), *others))


def _lost(weight: Tensor, found: Tensor) -> Tensor:
    """Return |weight| / |found|; 1 where nothing was found."""
    size: Tensor = torch.linalg.vector_norm(found)
    return torch.where(size > 0, torch.linalg.vector_norm(weight) / size, 1.0)
