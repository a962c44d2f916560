"""Radius rules: how large the ball of a parameter is. None of them touches a weight."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pliant.regions.gauges import Gauge
from pliant.sharding import whole
from pliant.spec import register
from pliant.structure.matricise import CONVOLUTIONS, TRANSPOSED, is_layer, widths
from pliant.structure.norms import is_norm


class RadiusRule(ABC):
    """Gives the norm radius of a ball."""

    @abstractmethod
    def radius(self, gauge: Gauge, count: int, initial_norm: float) -> float:
        """Return the radius.

        Args:
            gauge: the norm.
            count: number of magnitudes.
            initial_norm: expected Euclidean norm of the parameter at its default initialisation.
        """


@register
@dataclass(frozen=True)
class Fixed(RadiusRule):
    """The norm radius itself.

    Args:
        value: positive and finite.
    """

    value: float

    def __post_init__(self) -> None:
        _check("value", self.value)

    def radius(self, gauge: Gauge, count: int, initial_norm: float) -> float:  # noqa: ARG002  (given)
        return self.value


@register
@dataclass(frozen=True)
class Diameter(RadiusRule):
    """The radius at which the ball has this Euclidean diameter.

    Args:
        value: positive and finite.
    """

    value: float

    def __post_init__(self) -> None:
        _check("value", self.value)

    def radius(self, gauge: Gauge, count: int, initial_norm: float) -> float:  # noqa: ARG002  (independent of it)
        return self.value / gauge.at(count).diameter(count)


@register
@dataclass(frozen=True)
class InitScaled(RadiusRule):
    """The radius at which half the Euclidean diameter is `scale` times the parameter's initial norm.

    Args:
        scale: positive and finite; the published code uses 10 to 50.

    Reference: Zimmer, Spiegel, Pokutta (2022).
    """

    scale: float = 30.0

    def __post_init__(self) -> None:
        _check("scale", self.scale)

    def radius(self, gauge: Gauge, count: int, initial_norm: float) -> float:
        return 2.0 * self.scale * initial_norm / gauge.at(count).diameter(count)


def _check(name: str, value: float) -> None:
    if not 0.0 < value < math.inf:
        raise ValueError(f"{name} must be positive and finite, found {value!r}")


def initial_norm(module: nn.Module, name: str, parameter: Tensor) -> float:
    """Return the expected Euclidean norm of a parameter at torch's default initialisation.

    Closed forms exist for the layers of torch, so that a trained model gets the radii of a fresh one. Any other
    parameter (class tokens, position embeddings, layer scales) is measured as it is. Where the norm is zero, as for
    shifts, the answer is 1.

    Args:
        module: the module that owns the parameter.
        name: the parameter's name inside the module.
        parameter: the parameter, read only.
    """
    squared = _expected_square(module, name, parameter)
    if squared is None:
        squared = float(torch.linalg.vector_norm(whole(parameter.detach()).double())) ** 2
    return math.sqrt(squared) if squared > 0.0 else 1.0


def _expected_square(module: nn.Module, name: str, parameter: Tensor) -> float | None:
    entries = parameter.numel()
    if is_layer(module) and name in {"weight", "bias"}:
        return entries / (3.0 * _fan_in(module))  # uniform on +-1 / sqrt(fan in)
    if isinstance(module, nn.RNNBase | nn.RNNCellBase):
        return entries / (3.0 * module.hidden_size)
    if isinstance(module, nn.Embedding | nn.EmbeddingBag) and name == "weight":
        return float(entries if module.padding_idx is None else entries - module.embedding_dim)
    if isinstance(module, nn.MultiheadAttention) and name.endswith(("proj_weight", "proj_bias")):
        return 2.0 * entries / sum(parameter.shape) if parameter.ndim > 1 else 0.0  # Xavier
    if is_norm(module) and name in {"weight", "bias"}:
        return float(entries) if name == "weight" else 0.0
    return None


def _fan_in(module: nn.Module) -> int:
    """Return torch's fan in, without reading the weight: it may be computed, at a cost, by a parametrization."""
    outputs, inputs, groups = widths(module)
    kernel = module.kernel_size if isinstance(module, (*CONVOLUTIONS, *TRANSPOSED)) else ()
    return (outputs if isinstance(module, TRANSPOSED) else inputs) // groups * math.prod(kernel)
