"""Convolution: a Conv2d layer, whose block of activations is improved by conjugate gradients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.grad import conv2d_input

from pliant.bcd.maps import FixedMaps
from pliant.bcd.operator import Goal, Operator, Solved
from pliant.conjugate import conjugate_gradients

Pair = tuple[int, int]


@final
@dataclass(frozen=True, eq=False)
class Convolution(Operator):
    """A Conv2d layer, zero padded and with one group, behind fixed maps.

    Args:
        name: qualified.
        module: the layer.
        maps: before it.
        padding: zeros on each side of height and width.
        steps: of conjugate gradients, at least 1.
    """

    name: str
    module: nn.Conv2d
    maps: FixedMaps
    padding: Pair
    steps: int

    def apply(self, v: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        stride, dilation = self._window
        return F.conv2d(self.maps.apply(v), weight, bias, stride, self.padding, dilation)

    def adjoint(self, r: Tensor, weight: Tensor, shape: Sequence[int]) -> Tensor:
        stride, dilation = self._window
        whole = (len(r), *shape)
        pulled = conv2d_input(self.maps.shape(whole), weight, r, stride, self.padding, dilation)
        return self.maps.adjoint(pulled, whole)

    def features(self, v: Tensor) -> Tensor:
        stride, dilation = self._window
        kernel = self.module.weight.shape[2:]
        patches = F.unfold(self.maps.apply(v), kernel, dilation, self.padding, stride)
        return patches.movedim(1, 2).flatten(0, 1)

    def rows(self, r: Tensor) -> Tensor:
        return r.movedim(1, 3).flatten(0, 2)

    def goal(self, shape: Sequence[int], *, rho: float, weight: float) -> Goal:  # noqa: ARG002  (samples tell)
        return _ConvolutionGoal(self, rho, weight)

    @property
    def _window(self) -> tuple[Pair, Pair]:
        (sh, sw), (dh, dw) = self.module.stride, self.module.dilation
        return (sh, sw), (dh, dw)


@dataclass(frozen=True, eq=False)
class _ConvolutionGoal(Goal):
    """A few steps on (rho A^T A + weight I) (v - start) = rho A^T (u - A start - b) + weight (a - start)."""

    operator: Convolution
    rho: float
    weight: float

    def solve(self, a: Tensor, u: Tensor, start: Tensor) -> Solved:
        module = self.operator.module
        missing = u - self.operator.apply(start, module.weight, module.bias)
        right = self._pull(missing, start) + self.weight * (a - start)
        return Solved(start + conjugate_gradients(self._system, right, self.operator.steps))

    def _system(self, v: Tensor) -> Tensor:
        return self._pull(self.operator.apply(v, self.operator.module.weight, None), v) + self.weight * v

    def _pull(self, r: Tensor, like: Tensor) -> Tensor:
        return self.rho * self.operator.adjoint(r, self.operator.module.weight, like.shape[1:])
