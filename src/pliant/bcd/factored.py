"""Small layers in the places of those whose copies are stored as factors."""

from __future__ import annotations

from torch import nn

from pliant.compress.factor import split
from pliant.sets import Point, RankSet, TensorTrainSet, WeightSet
from pliant.tensor_train import as_train


def in_factors(layer: nn.Linear | nn.Conv2d, weight_set: WeightSet, point: Point) -> nn.Module:
    """Return a layer of factors in the place of one whose weight is a point of a set.

    Tensor trains become `TTLinear` or `TTConv2d`, weights of low rank two layers; others stay what they are, and so do
    those whose factors would be no fewer numbers.

    Args:
        layer: with the point as its weight.
        weight_set: that holds the point.
        point: and its factors.
    """
    if sum(factor.numel() for factor in point.factors) >= layer.weight.numel():
        return layer
    if isinstance(weight_set, TensorTrainSet):
        return as_train(layer, weight_set.reading.modes(layer.weight.shape), point.factors)
    if isinstance(weight_set, RankSet):
        return split(layer, point.factors[0].shape[1])
    return layer
