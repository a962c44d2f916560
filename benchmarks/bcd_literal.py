"""The published sweep as its formulas have it: explicit inverses, samples as columns, no biases, every matrix whole.

One convolution at most, the first layer, as patches; then linear layers with ReLU between and the squared loss. After
each sweep the objective and the accuracies are evaluated, as the published notebooks do.

Reference: Li, Chung, Du, Wang, Zhou, Shen, On Model Compression for Neural Networks (2023), arXiv 2303.06815.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pliant.sets import WeightSet


@dataclass(frozen=True)
class Weights:
    """The four weights of the objective."""

    rho: float
    gamma: float
    tau: float
    alpha: float


class LiteralBCD:
    """The state of the published method.

    Args:
        model: (Conv2d, ReLU, Flatten,) Linear, ReLU, ..., Linear, without biases.
        sets: by block.
        x: shape (samples, ...).
        y: labels.
        weights: of the objective.
    """

    def __init__(
        self, model: nn.Sequential, sets: dict[int, WeightSet], x: Tensor, y: Tensor, weights: Weights
    ) -> None:
        layers = [layer for layer in model if isinstance(layer, nn.Linear | nn.Conv2d)]
        self.convolution = layers[0] if isinstance(layers[0], nn.Conv2d) else None
        self.w = [layer.weight.detach().flatten(1).clone() for layer in layers]
        self.g = {index: sets[index].project(self.w[index]).dense for index in sets}
        self.sets, self.weights, self.samples = sets, weights, len(x)
        self.input = x.flatten(1).mT if self.convolution is None else self._patches(x)
        self.labels = y
        self.target = F.one_hot(y, len(self.w[-1])).to(x.dtype).mT
        self.u: list[Tensor] = []
        self.v: list[Tensor] = [self.input]
        for index in range(len(self.w)):
            self.u.append(self._reached(index))
            self.v.append(self.u[-1].clamp(min=0.0) if index < len(self.w) - 1 else self.u[-1])

    def _patches(self, x: Tensor) -> Tensor:
        layer = self.convolution
        assert layer is not None  # noqa: S101  (for the type checker)
        return F.unfold(x, layer.kernel_size, stride=layer.stride).movedim(1, 2).flatten(0, 1)

    def _reached(self, index: int) -> Tensor:
        """W V, of the convolution reshaped to one column a sample."""
        if index or self.convolution is None:
            return self.w[index] @ self.v[index]
        return (self.input @ self.w[0].mT).reshape(self.samples, -1, len(self.w[0])).movedim(2, 1).flatten(1).mT

    def sweep(self) -> float:
        """Update every block; return the objective."""
        rho, gamma, alpha = self.weights.rho, self.weights.gamma, self.weights.alpha
        last = len(self.w) - 1
        self.v[-1] = (self.target + gamma * self.u[-1] + alpha * self.v[-1]) / (1 + gamma + alpha)
        self.u[-1] = (gamma * self.v[-1] + rho * self._reached(last)) / (gamma + rho)
        self._weight(last)
        for index in range(last - 1, -1, -1):
            above = self.w[index + 1]
            eye = torch.eye(above.shape[1], dtype=above.dtype)
            inverse = torch.linalg.inv(rho * (above.mT @ above) + gamma * eye)
            active = self.u[index].clamp(min=0.0)
            self.v[index + 1] = inverse @ (rho * (above.mT @ self.u[index + 1]) + gamma * active)
            self._linear(index)
            self._weight(index)
        return self.evaluate()

    def _linear(self, index: int) -> None:
        rho, gamma, alpha = self.weights.rho, self.weights.gamma, self.weights.alpha
        a, g = self.v[index + 1], (rho + alpha) / gamma
        b = (rho * self._reached(index) + alpha * self.u[index]) / (rho + alpha)
        u = torch.zeros_like(b)
        pull, root = g * b, (g * (g + 1)) ** 0.5 - g
        u = torch.where(a + pull < 0, b.clamp(max=0.0), u)
        u = torch.where((a + pull >= 0) & (b >= 0), (a + pull) / (1 + g), u)
        u = torch.where((b < 0) & (pull >= -a * root) & (a + pull >= 0), (a + pull) / (1 + g), u)
        self.u[index] = torch.where((b < 0) & (-a <= pull) & (pull <= -a * root), b, u)

    def _weight(self, index: int) -> None:
        rho, alpha = self.weights.rho, self.weights.alpha
        v, u, tau = self.v[index], self.u[index], self.weights.tau if index in self.g else 0.0
        if index == 0 and self.convolution is not None:
            v = self.input.mT
            u = u.mT.reshape(self.samples, len(self.w[0]), -1).movedim(1, 2).flatten(0, 1).mT
        right = rho * (u @ v.mT) + alpha * self.w[index]
        if index in self.g:
            right = right + tau * self.g[index]
        self.w[index] = right @ torch.linalg.inv(rho * (v @ v.mT) + (alpha + tau) * torch.eye(len(v), dtype=v.dtype))
        if index in self.g:
            self.g[index] = self.sets[index].project(self.w[index]).dense

    def evaluate(self) -> float:
        """Return the objective; passes forward with W and with G as well, for the accuracies that are printed."""
        rho, gamma, tau = self.weights.rho, self.weights.gamma, self.weights.tau
        value = 0.5 * (self.v[-1] - self.target).square().sum()
        for index, u in enumerate(self.u):
            active = u.clamp(min=0.0) if index < len(self.u) - 1 else u
            value = value + 0.5 * rho * (self._reached(index) - u).square().sum()
            value = value + 0.5 * gamma * (self.v[index + 1] - active).square().sum()
        for index, g in self.g.items():
            value = value + 0.5 * tau * (self.w[index] - g).square().sum()
        self.accuracy()
        return float(value)

    def accuracy(self) -> float:
        """Return that of a forward pass with G."""
        kept = self.v, self.w
        self.v, self.w = [self.input], [self.g.get(index, w) for index, w in enumerate(self.w)]
        for index in range(len(self.w)):
            reached = self._reached(index)
            self.v.append(reached.clamp(min=0.0) if index < len(self.w) - 1 else reached)
        scores = self.v[-1]
        self.v, self.w = kept
        return float((scores.argmax(0) == self.labels).double().mean())
