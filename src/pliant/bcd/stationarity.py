"""How far the blocks are from a critical point."""

from __future__ import annotations

import torch
from torch import Tensor

from pliant.bcd.moments import Moments
from pliant.bcd.problem import Points, Problem
from pliant.bcd.processes import total
from pliant.bcd.samples import Samples


@torch.no_grad()
def stationarity(problem: Problem, samples: Samples, points: Points) -> Tensor:
    """Return dist^2(0, dF): the sum of squares of the least subgradient of every block, in float64.

    For G it is tau (W - G) on the tangent space of the set.
    """
    empty = [Moments.empty(block.weight, block.bias, _unread(block.weight)) for block in problem.chain.blocks]
    square = torch.zeros((), dtype=torch.float64, device=samples.target.device)
    for part in samples.parts(problem.chunk):
        square += _of_samples(problem, part, empty)
    square = total(square)
    for index, moments in enumerate(empty):
        square = square + _of_weight(problem, index, total(moments.cross), points)
    return square


def _unread(weight: Tensor) -> Tensor:
    return weight.new_empty(0)


def _of_samples(problem: Problem, part: Samples, moments: list[Moments]) -> Tensor:
    chain, penalties = problem.chain, problem.penalties
    too_much = [chain.linear(i, part.activations) - part.linear[i] for i in range(len(chain.blocks))]
    square = torch.zeros((), dtype=torch.float64, device=part.target.device)
    for index, block in enumerate(chain.blocks):
        u, v = part.linear[index], part.activations[index + 1]
        square += _square(block.activation.stationarity(u, v, -penalties.rho * too_much[index], penalties.gamma))
        square += _square(_of_activations(problem, part, index, too_much))
        moments[index].add(block.operator.features(part.activations[index]), block.operator.rows(too_much[index]))
    return square


def _of_activations(problem: Problem, part: Samples, index: int, too_much: list[Tensor]) -> Tensor:
    chain, penalties = problem.chain, problem.penalties
    v = part.activations[index + 1]
    slope = penalties.gamma * (v - chain.blocks[index].activation.apply(part.linear[index]))
    if index == chain.last:
        return problem.loss.stationarity(v, part.target, slope)
    above = chain.blocks[index + 1]
    slope = slope + penalties.rho * above.operator.adjoint(too_much[index + 1], above.weight, v.shape[1:])
    return slope + penalties.rho * sum((too_much[reader] for reader in chain.readers(index)), start=0.0 * v)


def _of_weight(problem: Problem, index: int, cross: Tensor, points: Points) -> Tensor:
    slope = problem.penalties.rho * cross
    if index not in points:
        return _square(slope[:, problem.chain.blocks[index].learning])
    weight, point = problem.chain.blocks[index].weight, points[index]
    gap = problem.penalties.tau * (weight - point.dense)
    slope[:, : gap[0].numel()] += gap.flatten(1)
    return _square(slope[:, problem.chain.blocks[index].learning]) + _square(problem.sets[index].tangent(point, gap))


def _square(x: Tensor) -> Tensor:
    return x.square().sum(dtype=torch.float64)
