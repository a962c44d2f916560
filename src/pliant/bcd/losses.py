"""Losses: sums over samples, their proximal maps and their stationarity."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from pliant.bcd.errors import BCDError

_NEWTON_STEPS = 50
_HALVINGS = 30


class Loss(ABC):
    """A convex function of the network's outputs v, shape (samples, outputs), summed over the samples."""

    @abstractmethod
    def encode(self, y: Tensor, outputs: int, dtype: torch.dtype) -> Tensor:
        """Return the targets of labels (samples,), or of targets (samples, outputs) where they make sense.

        Raises:
            BCDError: if they are neither.
        """

    @abstractmethod
    def value(self, v: Tensor, target: Tensor) -> Tensor:
        """Return the loss, in float64."""

    @abstractmethod
    def prox(self, m: Tensor, target: Tensor, c: float) -> Tensor:
        """Return the minimiser of loss(v) + c |v - m|^2 / 2."""

    @abstractmethod
    def stationarity(self, v: Tensor, target: Tensor, slope: Tensor) -> Tensor:
        """Return the element of least magnitude of slope + the subdifferential at v."""


@dataclass(frozen=True)
class Squared(Loss):
    """|v - y|^2 / 2; labels are encoded as unit vectors."""

    def encode(self, y: Tensor, outputs: int, dtype: torch.dtype) -> Tensor:
        if y.is_floating_point():
            if y.ndim != 2 or y.shape[1] != outputs:
                raise BCDError(f"targets must have the shape (samples, {outputs}), found {tuple(y.shape)}")
            return y.to(dtype)
        return _one_hot(y, outputs, dtype)

    def value(self, v: Tensor, target: Tensor) -> Tensor:
        return 0.5 * (v - target).square().sum(dtype=torch.float64)

    def prox(self, m: Tensor, target: Tensor, c: float) -> Tensor:
        return (target + c * m) / (1.0 + c)

    def stationarity(self, v: Tensor, target: Tensor, slope: Tensor) -> Tensor:
        return slope + v - target


@dataclass(frozen=True)
class Hinge(Loss):
    """sum max(0, 1 - y v) over samples and outputs, y = 1 at the sample's class and -1 elsewhere."""

    def encode(self, y: Tensor, outputs: int, dtype: torch.dtype) -> Tensor:
        return 2.0 * _one_hot(y, outputs, dtype) - 1.0

    def value(self, v: Tensor, target: Tensor) -> Tensor:
        return (1.0 - target * v).clamp(min=0.0).sum(dtype=torch.float64)

    def prox(self, m: Tensor, target: Tensor, c: float) -> Tensor:
        margin = target * m
        return target * torch.where(margin >= 1.0, margin, (margin + 1.0 / c).clamp(max=1.0))

    def stationarity(self, v: Tensor, target: Tensor, slope: Tensor) -> Tensor:
        margin, along = target * v, target * slope  # the subdifferential along the target: -1 below the kink, 0 above
        kinked = along - along.clamp(0.0, 1.0)
        return target * torch.where(margin < 1.0, along - 1.0, torch.where(margin > 1.0, along, kinked))


@dataclass(frozen=True)
class CrossEntropy(Loss):
    """sum (logsumexp(v) - v_y) over the samples.

    The proximal map is found by Newton's method: the Hessian diag(p + c) - p p^T is inverted by Sherman-Morrison, and
    each sample halves its own step until its objective falls.

    Args:
        steps: Newton steps at most, at least 1.
    """

    steps: int = _NEWTON_STEPS

    def encode(self, y: Tensor, outputs: int, dtype: torch.dtype) -> Tensor:
        return _one_hot(y, outputs, dtype)

    def value(self, v: Tensor, target: Tensor) -> Tensor:
        return (torch.logsumexp(v, 1) - (v * target).sum(1)).sum(dtype=torch.float64)

    def prox(self, m: Tensor, target: Tensor, c: float) -> Tensor:
        v = m
        rounding = 8.0 * torch.finfo(m.dtype).eps
        for _ in range(self.steps):
            move = _newton(v, m, target, c)
            v = _backtrack(v, move, m, target, c)
            if bool((move.abs() <= rounding * (1.0 + 1.0 / c + v.abs())).all()):
                break
        return v

    def stationarity(self, v: Tensor, target: Tensor, slope: Tensor) -> Tensor:
        return slope + torch.softmax(v, 1) - target


def _newton(v: Tensor, m: Tensor, target: Tensor, c: float) -> Tensor:
    p = torch.softmax(v, 1)
    scale = p + c
    slope = (p - target + c * (v - m)) / scale
    share = p / scale
    # 1 - sum p^2 / (p + c) = sum p c / (p + c): the second form does not cancel
    return -(slope + share * (p * slope).sum(1, keepdim=True) / (c * share).sum(1, keepdim=True))


def _backtrack(v: Tensor, move: Tensor, m: Tensor, target: Tensor, c: float) -> Tensor:
    now = _objective(v, m, target, c)
    size = 1.0 + now.abs() + v.abs().amax(1, keepdim=True)
    bound = now + 8.0 * torch.finfo(v.dtype).eps * size  # near the minimum the objective only sees rounding
    step = torch.ones_like(now)
    for _ in range(_HALVINGS):
        worse = _objective(v + step * move, m, target, c) > bound
        if not bool(worse.any()):
            break
        step = torch.where(worse, 0.5 * step, step)
    return v + step * move


def _objective(v: Tensor, m: Tensor, target: Tensor, c: float) -> Tensor:
    entropy = torch.logsumexp(v, 1, keepdim=True) - (v * target).sum(1, keepdim=True)
    return entropy + 0.5 * c * (v - m).square().sum(1, keepdim=True)


def check_labels(y: Tensor) -> None:
    """Refuse what names no class for every sample.

    Raises:
        BCDError: if it is not.
    """
    if y.ndim != 1 or y.is_floating_point() or y.dtype == torch.bool:
        raise BCDError(f"labels must be whole numbers of shape (samples,), found {y.dtype} of {tuple(y.shape)}")


def _one_hot(y: Tensor, outputs: int, dtype: torch.dtype) -> Tensor:
    check_labels(y)
    if len(y) and not 0 <= int(y.min()) <= int(y.max()) < outputs:
        found = f"{int(y.min())} to {int(y.max())}"
        raise BCDError(f"labels must lie in 0 to {outputs - 1}, the outputs of the last layer, found {found}")
    return F.one_hot(y.long(), outputs).to(dtype)
