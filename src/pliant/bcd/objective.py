"""The objective: computed here and nowhere else."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pliant.bcd.problem import Points, Problem
from pliant.bcd.processes import total
from pliant.bcd.samples import Samples


@dataclass(frozen=True)
class Objective:
    """F = loss + linear + activation + compression, in float64.

    Args:
        loss: of V_L.
        linear: rho / 2 sum |W V + b - U|^2.
        activation: gamma / 2 sum |V - s(U)|^2.
        compression: tau / 2 sum |W - G|^2.
    """

    loss: Tensor
    linear: Tensor
    activation: Tensor
    compression: Tensor

    @property
    def total(self) -> Tensor:
        """F."""
        return self.loss + self.linear + self.activation + self.compression


def objective(problem: Problem, samples: Samples, points: Points) -> Objective:
    """Return the objective over the samples of all processes; differentiable by every block in a single one."""
    parts = [_of_samples(problem, part) for part in samples.parts(problem.chunk)]
    loss, linear, activation = total(torch.stack(parts).sum(0))
    blocks, tau = problem.chain.blocks, problem.penalties.tau
    gaps = [_square(blocks[index].weight - point.dense) for index, point in points.items()]
    return Objective(loss, linear, activation, 0.5 * tau * sum(gaps, start=torch.zeros_like(loss)))


def _of_samples(problem: Problem, part: Samples) -> Tensor:
    chain, penalties = problem.chain, problem.penalties
    linear = activation = torch.zeros((), dtype=torch.float64, device=part.target.device)
    for index, block in enumerate(chain.blocks):
        linear = linear + _square(chain.linear(index, part.activations) - part.linear[index])
        activation = activation + _square(part.activations[index + 1] - block.activation.apply(part.linear[index]))
    loss = problem.loss.value(part.activations[-1], part.target)
    return torch.stack((loss, 0.5 * penalties.rho * linear, 0.5 * penalties.gamma * activation))


def _square(x: Tensor) -> Tensor:
    return x.square().sum(dtype=torch.float64)
