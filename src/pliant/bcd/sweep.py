"""One sweep over all blocks, from the last layer to the first, samples chunk by chunk."""

from __future__ import annotations

import torch
from torch import Tensor

from pliant.bcd.known import Known
from pliant.bcd.moments import Moments
from pliant.bcd.operator import Goal, Solved
from pliant.bcd.problem import Problem
from pliant.bcd.samples import Samples
from pliant.bcd.steps import activation_goal, activation_step, copy_step, linear_step, output_step, weight_step
from pliant.sets import Point


@torch.no_grad()
def sweep(problem: Problem, samples: Samples, points: dict[int, Point], known: Known) -> None:
    """Update V_i, U_i, then W_i with b_i, then G_i, for i = L to 1; each step sees the newest of all other blocks.

    V and U are separable over samples, and the weights need sums over samples alone: one pass over the samples per
    layer does all three, whatever the chunk.

    Args:
        problem: what is minimised.
        samples: written in place.
        points: the compressed copies, replaced in place.
        known: of the sweep before, and after it of this one.
    """
    for index in range(problem.chain.last, -1, -1):
        moments = _improve_samples(problem, samples, index, known)
        weight_step(problem, index, moments, points.get(index))
        if index in points:
            points[index] = copy_step(problem, index, points[index])
        if index == 0:
            known.grams[index] = moments.gram


def _improve_samples(problem: Problem, samples: Samples, index: int, known: Known) -> Moments:
    """Update V_i and U_i; return the moments of U_i - W_i V_{i-1} - b_i."""
    blocks, last = problem.chain.blocks, problem.chain.last
    block, ready, room = blocks[index], known.of(index, blocks[index]), None
    goal = None if index == last else activation_goal(problem, samples, index)
    moments = Moments.empty(block.weight, block.bias, known.grams.get(index))
    for rows in samples.rows(problem.chunk):
        part = samples.part(rows)
        above = _improve_activations(problem, part, index, goal)
        if above is not None:
            room = known.room(index + 1, len(samples), above) if room is None else room
            room[rows] = above
        missing = _improve_linear(problem, part, index, None if ready is None else ready[rows])
        moments.add(block.operator.features(part.activations[index]), block.operator.rows(missing))
    if room is not None:
        known.note(index + 1, blocks[index + 1], room)
    return moments.finish()


def _improve_activations(problem: Problem, part: Samples, index: int, goal: Goal | None) -> Tensor | None:
    """Update V_i of some samples; return W_{i+1} V_i + b_{i+1} if that is known now."""
    new = Solved(output_step(problem, part)) if goal is None else activation_step(problem, part, index, goal)
    part.activations[index + 1].copy_(new.v)
    return new.reached


def _improve_linear(problem: Problem, part: Samples, index: int, ready: Tensor | None) -> Tensor:
    """Update U_i of some samples; return U_i - W_i V_{i-1} - b_i."""
    chain, activations = problem.chain, part.activations
    reached = chain.linear(index, activations) if ready is None else chain.summed(index, ready, activations)
    part.linear[index].copy_(linear_step(problem, part, index, reached))
    return part.linear[index] - reached
