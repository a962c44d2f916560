"""One sweep over all blocks, from the last layer to the first, samples chunk by chunk."""

from __future__ import annotations

import torch
from torch import Tensor

from pliant.bcd.moments import Moments
from pliant.bcd.operator import Goal
from pliant.bcd.problem import Problem
from pliant.bcd.samples import Samples
from pliant.bcd.steps import activation_goal, activation_step, copy_step, linear_step, output_step, weight_step
from pliant.sets import Point


@torch.no_grad()
def sweep(problem: Problem, samples: Samples, points: dict[int, Point], grams: dict[int, Tensor]) -> None:
    """Update V_i, U_i, then W_i with b_i, then G_i, for i = L to 1; each step sees the newest of all other blocks.

    V and U are separable over samples, and the weights need sums over samples alone: one pass over the samples per
    layer does all three, whatever the chunk.

    Args:
        problem: what is minimised.
        samples: written in place.
        points: the compressed copies, replaced in place.
        grams: Gram matrices that are known, by block; the first layer's, whose features never change, is put here.
    """
    for index in range(problem.chain.last, -1, -1):
        moments = _improve_samples(problem, samples, index, grams.get(index))
        weight_step(problem, index, moments, points.get(index))
        if index in points:
            points[index] = copy_step(problem, index, points[index])
        if index == 0:
            grams[index] = moments.gram


def _improve_samples(problem: Problem, samples: Samples, index: int, gram: Tensor | None) -> Moments:
    block = problem.chain.blocks[index]
    goal = None if index == problem.chain.last else activation_goal(problem, samples, index)
    moments = Moments.empty(block.weight, block.bias, gram)
    for part in samples.parts(problem.chunk):
        missing = _improve_part(problem, part, index, goal)
        moments.add(block.operator.features(part.activations[index]), block.operator.rows(missing))
    return moments.finish()


def _improve_part(problem: Problem, part: Samples, index: int, goal: Goal | None) -> Tensor:
    """Update V_i and U_i of some samples; return U_i - W_i V_{i-1} - b_i."""
    new = output_step(problem, part) if goal is None else activation_step(problem, part, index, goal)
    part.activations[index + 1].copy_(new)
    reached = problem.chain.linear(index, part.activations)
    part.linear[index].copy_(linear_step(problem, part, index, reached))
    return part.linear[index] - reached
