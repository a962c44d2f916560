"""Forward passes through the chain, with the weights or with their compressed copies."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from pliant.bcd.chain import Chain
from pliant.bcd.losses import Loss
from pliant.bcd.problem import Problem
from pliant.bcd.processes import total
from pliant.bcd.samples import Samples

Weights = Mapping[int, Tensor]  # in place of the layers' own, by block


@torch.no_grad()
def propagate(chain: Chain, x: Tensor, weights: Weights) -> tuple[list[Tensor], list[Tensor]]:
    """Return V_0 to V_L and U_1 to U_L of a forward pass."""
    activations, linear = [x], []
    for index, block in enumerate(chain.blocks):
        linear.append(chain.linear(index, activations, weights.get(index)))
        activations.append(block.activation.apply(linear[-1]))
    return activations, linear


@torch.no_grad()
def allocate(chain: Chain, loss: Loss, x: Tensor, y: Tensor, chunk: int) -> Samples:
    """Return samples whose blocks are those of a forward pass."""
    activations, linear = propagate(chain, x[:1], {})
    room = [[torch.empty_like(block[0]).expand(len(x), *block.shape[1:]).clone() for block in blocks]
            for blocks in (activations[1:], linear)]  # fmt: skip
    target = loss.encode(y, linear[-1].shape[1], x.dtype)
    samples = Samples((x, *room[0]), tuple(room[1]), target)
    synchronise(chain, samples, {}, chunk)
    return samples


@torch.no_grad()
def synchronise(chain: Chain, samples: Samples, weights: Weights, chunk: int) -> None:
    """Set U and V, in place, to what a forward pass gives."""
    for part in samples.parts(chunk):
        activations, linear = propagate(chain, part.activations[0], weights)
        for old, new in zip((*part.activations[1:], *part.linear), (*activations[1:], *linear), strict=True):
            old.copy_(new)


@torch.no_grad()
def accuracy(chain: Chain, x: Tensor, y: Tensor, weights: Weights, chunk: int) -> float:
    """Return the share of the samples of all processes whose largest output is that of their label."""
    seen = torch.zeros(2, dtype=torch.int64, device=x.device)
    for part, labels in zip(x.split(chunk), y.split(chunk), strict=True):
        scores = propagate(chain, part, weights)[0][-1]
        seen += torch.stack(((scores.argmax(1) == labels).sum(), seen.new_tensor(len(part))))
    right, samples = total(seen).tolist()
    return right / max(samples, 1)


@torch.no_grad()
def loss_of(problem: Problem, x: Tensor, y: Tensor, weights: Weights) -> float:
    """Return the mean loss of the samples of all processes."""
    seen = torch.zeros(2, dtype=torch.float64, device=x.device)
    for part, labels in zip(x.split(problem.chunk), y.split(problem.chunk), strict=True):
        scores = propagate(problem.chain, part, weights)[0][-1]
        value = problem.loss.value(scores, problem.loss.encode(labels, scores.shape[1], scores.dtype))
        seen += torch.stack((value, seen.new_tensor(len(part))))
    value, samples = total(seen).tolist()
    return value / max(samples, 1.0)
