"""Polish: a short training by gradients inside the sets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from pliant.bcd.chain import Chain
from pliant.bcd.errors import BCDError
from pliant.bcd.problem import Points, Problem
from pliant.bcd.processes import count
from pliant.sets import Point, WeightSet


@dataclass(frozen=True)
class Polish:
    """Adam on the loss a sample, gradients of compressed weights along their sets.

    Block coordinate descent leaves layers of very different scales, which a single step size would not suit.

    Args:
        epochs: at least 1.
        lr: positive.
        batch: samples a step, at least 1.
        project_every: steps after which the weights are put back into their sets; they are so at the end.
        seed: of the order of samples.

    Raises:
        BCDError: if a number is out of its range.
    """

    epochs: int = 1
    lr: float = 0.001
    batch: int = 128
    project_every: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("epochs", "batch", "project_every"):
            if getattr(self, name) < 1:
                raise BCDError(f"{name} must be at least 1, found {getattr(self, name)!r}")
        if not self.lr > 0.0:
            raise BCDError(f"lr must be positive, found {self.lr!r}")


@torch.enable_grad()
def polish(problem: Problem, points: Points, x: Tensor, y: Tensor, options: Polish) -> dict[int, Point]:
    """Train the chain's parameters in place; return the points that its compressed weights are.

    Raises:
        BCDError: if there are several processes: gradients are not shared.
    """
    if count() > 1:
        raise BCDError(f"a polish runs in a single process, found {count()}: polish the model of one of them")
    chain = problem.chain
    found = dict(points)
    _adopt(chain, found)
    parameters = [p for block in chain.blocks for p in block.operator.module.parameters() if p.requires_grad]
    adam = torch.optim.Adam(parameters, lr=options.lr)
    generator = torch.Generator().manual_seed(options.seed)
    step = 0
    for _ in range(options.epochs):
        for places in torch.randperm(len(x), generator=generator).to(x.device).split(options.batch):
            _descend(problem, found, adam, x[places], y[places])
            step += 1
            if step % options.project_every == 0:
                found = _project(chain, problem.sets, found)
    return _project(chain, problem.sets, found)


def _descend(problem: Problem, points: Points, adam: torch.optim.Adam, x: Tensor, y: Tensor) -> None:
    chain = problem.chain
    activations = [x]
    for index, block in enumerate(chain.blocks):
        activations.append(block.activation.apply(chain.linear(index, activations)))
    scores = activations[-1]
    loss = problem.loss.value(scores, problem.loss.encode(y, scores.shape[1], scores.dtype)) / len(x)
    adam.zero_grad()
    loss.backward()
    for index, point in points.items():
        gradient = chain.blocks[index].weight.grad
        if gradient is not None:
            gradient.copy_(problem.sets[index].tangent(point, gradient))
    adam.step()


def _project(chain: Chain, sets: Mapping[int, WeightSet], points: Points) -> dict[int, Point]:
    weights = {index: chain.blocks[index].weight.detach() for index in points}
    found = {index: sets[index].project(weights[index], near=point) for index, point in points.items()}
    _adopt(chain, found)
    return found


@torch.no_grad()
def _adopt(chain: Chain, points: Points) -> None:
    for index, point in points.items():
        chain.blocks[index].weight.copy_(point.dense)
