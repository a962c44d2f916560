"""The updates of the blocks, each the minimiser of the objective and its proximal term over one block."""

from __future__ import annotations

import torch
from torch import Tensor

from pliant.bcd.moments import Moments, solve
from pliant.bcd.operator import Goal, Solved
from pliant.bcd.problem import Problem
from pliant.bcd.samples import Samples
from pliant.sets import Point


def output_step(problem: Problem, part: Samples) -> Tensor:
    """Return V_L, the minimiser of loss(v) + gamma |v - s(U_L)|^2 / 2 + alpha |v - V_L|^2 / 2."""
    gamma, alpha = problem.penalties.gamma, problem.penalties.alpha
    reached = problem.chain.blocks[-1].activation.apply(part.linear[-1])
    middle = (gamma * reached + alpha * part.activations[-1]) / (gamma + alpha)
    return problem.loss.prox(middle, part.target, gamma + alpha)


def activation_goal(problem: Problem, part: Samples, index: int) -> Goal:
    """Prepare `activation_step` of a block for the weights as they are."""
    rho, gamma = problem.penalties.rho, problem.penalties.gamma
    weight = gamma + rho * len(problem.chain.readers(index))
    shape = part.activations[index + 1].shape[1:]
    return problem.chain.blocks[index + 1].operator.goal(shape, rho=rho, weight=weight)


def activation_step(problem: Problem, part: Samples, index: int, goal: Goal) -> Solved:
    """Return V_i below the last: the minimiser of gamma |v - s(U_i)|^2 / 2 + rho |A v + b - U_{i+1}|^2 / 2.

    Every sum that the activations enter adds rho |v + A_j V_{j-1} + b_j - U_j|^2 / 2.
    """
    chain, rho, gamma = problem.chain, problem.penalties.rho, problem.penalties.gamma
    now, readers = part.activations[index + 1], chain.readers(index)
    wish = chain.blocks[index].activation.apply(part.linear[index])
    if readers:
        wish = gamma * wish
        for reader in readers:
            wish = wish + rho * (part.linear[reader] - chain.linear(reader, part.activations) + now)
        wish = wish / (gamma + rho * len(readers))
    above, skip = part.linear[index + 1], chain.blocks[index + 1].skip
    return goal.solve(wish, above if skip is None else above - part.activations[skip + 1], now)


def linear_step(problem: Problem, part: Samples, index: int, reached: Tensor) -> Tensor:
    """Return U_i, the minimiser of gamma |V_i - s(u)|^2 / 2 + rho |u - reached|^2 / 2 (+ alpha |u - U_i|^2 / 2, i < L).

    Args:
        problem: what is minimised.
        part: the samples.
        index: of the block.
        reached: W_i V_{i-1} + b_i.
    """
    rho, gamma, alpha = problem.penalties.rho, problem.penalties.gamma, problem.penalties.alpha
    activation, wanted = problem.chain.blocks[index].activation, part.activations[index + 1]
    if index == problem.chain.last:
        return activation.prox(wanted, reached, rho / gamma)
    middle = torch.lerp(reached, part.linear[index], alpha / (rho + alpha))
    return activation.prox(wanted, middle, (rho + alpha) / gamma)


def weight_step(problem: Problem, index: int, moments: Moments, point: Point | None) -> None:
    """Move W_i and b_i to the minimiser of rho |W V + b - U|^2 / 2 + tau |W - G|^2 / 2 + alpha |(W, b) - old|^2 / 2.

    In increments: D (rho F^T F + diag(alpha + tau, alpha)) = rho R^T F + tau [G - W, 0], R = U - W V - b, the last
    column that of the bias. Increments are small, hence so is the rounding error. Frozen parameters stay: the minimiser
    is that over the others.

    Args:
        problem: what is minimised.
        index: of the block.
        moments: of the features F and the residuals R.
        point: the compressed copy; None where the weight stays dense.
    """
    block, penalties = problem.chain.blocks[index], problem.penalties
    count, free = block.weight[0].numel(), block.learning
    if free.start == free.stop:
        return
    right, system = penalties.rho * moments.cross, penalties.rho * moments.gram
    system.diagonal().add_(penalties.alpha)
    if point is not None:
        system.diagonal()[:count].add_(penalties.tau)
        right[:, :count].add_((point.dense - block.weight).flatten(1), alpha=penalties.tau)
    block.move(solve(system[free, free], right[:, free].mT, f"{block.name}: weight and bias").mT)


def copy_step(problem: Problem, index: int, point: Point) -> Point:
    """Return G_i as the mode has it, and let W_i go on as the mode has it."""
    weight = problem.chain.blocks[index].weight
    found = problem.mode.point(problem.sets[index], weight.detach(), point, problem.penalties)
    weight.copy_(problem.mode.weight(weight, found))
    return found
