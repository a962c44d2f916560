"""The last layer, fitted anew by least squares."""

from __future__ import annotations

import torch
from torch import Tensor

from pliant.bcd.errors import BCDError
from pliant.bcd.forward import Weights, propagate
from pliant.bcd.losses import Squared
from pliant.bcd.moments import Moments, solve
from pliant.bcd.problem import Problem
from pliant.bcd.processes import total


@torch.no_grad()
def refit(problem: Problem, weights: Weights, x: Tensor, y: Tensor, ridge: float) -> None:
    """Move the last layer to argmin sum |W f + b - y|^2 / 2 + samples ridge |change|^2 / 2.

    f are the features before the last layer in a forward pass with `weights`, y unit vectors of the labels.

    Raises:
        BCDError: if the last layer is compressed or frozen, or the ridge is not positive.
    """
    chain = problem.chain
    block = chain.blocks[-1]
    if chain.last in weights:
        raise BCDError(f"{block.name}: the last layer is compressed; a refit would leave its set")
    if block.learning.start == block.learning.stop:
        raise BCDError(f"{block.name}: the last layer is frozen (requires_grad=False); a refit would move it")
    if not ridge > 0.0:
        raise BCDError(f"ridge must be positive, found {ridge!r}")
    moments = Moments.empty(block.weight, block.bias, None)
    for part, labels in zip(x.split(problem.chunk), y.split(problem.chunk), strict=True):
        activations, linear = propagate(chain, part, weights)
        target = Squared().encode(labels, linear[-1].shape[1], x.dtype)
        moments.add(block.operator.features(activations[-2]), block.operator.rows(target - linear[-1]))
    moments = moments.finish()
    samples = total(torch.tensor(float(len(x)), dtype=x.dtype, device=x.device))
    moments.gram.diagonal().add_(ridge * samples)
    free = block.learning
    block.move(solve(moments.gram[free, free], moments.cross[:, free].mT, f"{block.name}: refit").mT)
