"""One optimizer on one model with made-up gradients, and the runs that laws compare."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from pliant.regions.region import Region, tensors


def small_model() -> nn.Module:
    """Return a convolution, its norm layer and a linear layer: weights of one, two and four dimensions."""
    return nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 3))


@dataclass(frozen=True)
class OptimizerCase:
    """An optimizer under test.

    Args:
        make: builds the optimizer of a model. Groups that carry a "region" hold points of it, as in `SFW`; weights are
            scaled into their regions before the first step.
        model: builds the model; its forward pass is never called.
        dtype: of the weights.
        seed: same seed, same weights and gradients.
        steps: length of the runs that laws compare, at least 4.
    """

    make: Callable[[nn.Module], Optimizer]
    model: Callable[[], nn.Module] = small_model
    dtype: torch.dtype = torch.float32
    seed: int = 0
    steps: int = 4

    def start(self, *, memory_format: torch.memory_format = torch.preserve_format) -> Run:
        """Return a run that has taken no step."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            model = self.model()
        model = model.to(dtype=self.dtype)
        for p in model.parameters():
            if p.ndim == 4:
                p.data = p.data.contiguous(memory_format=memory_format)
        run = Run(self, self.make(model))
        run.enter()
        return run

    def elsewhere(self) -> OptimizerCase:
        """Return the case of another seed: other weights and gradients."""
        return replace(self, seed=self.seed + 1)

    @property
    def eps(self) -> float:
        """Rounding of the weights' dtype."""
        return torch.finfo(self.dtype).eps


class Run:
    """An optimizer and how many gradients it has been given.

    Args:
        case: where the gradients come from.
        optimizer: the optimizer.
        index: number of the next gradient.
    """

    def __init__(self, case: OptimizerCase, optimizer: Optimizer, index: int = 0) -> None:
        self.case = case
        self.optimizer = optimizer
        self.index = index

    @property
    def params(self) -> list[Tensor]:
        """All parameters in the order of the groups."""
        return [p for group in self.optimizer.param_groups for p in group["params"]]

    @property
    def names(self) -> list[str]:
        """Their names, empty where the optimizer knows none."""
        return [
            n for group in self.optimizer.param_groups for n in group.get("param_names", [""] * len(group["params"]))
        ]

    def gradients(self, silent: Collection[int] = ()) -> Run:
        """Set the next gradients; the parameters of the numbers in `silent` get none."""
        draws = torch.Generator().manual_seed(self.case.seed * 1_000_003 + self.index)
        self.index += 1
        for number, p in enumerate(self.params):
            noise = torch.randn(p.shape, generator=draws, dtype=torch.float64).to(p.device, p.dtype)
            grad = torch.empty_like(p).copy_(noise + p.detach())
            p.grad = None if number in silent else grad
        return self

    def take(self, steps: int, silent: Collection[int] = ()) -> Run:
        """Take steps; see `gradients`."""
        for _ in range(steps):
            self.gradients(silent).optimizer.step()
        return self

    def empty(self) -> Run:
        """Take a step without any gradient."""
        self.optimizer.zero_grad()
        self.optimizer.step()
        return self

    def having(self, **options: Any) -> Run:  # noqa: ANN401  (hyper-parameters of groups)
        """Set hyper-parameters of all groups."""
        for group in self.optimizer.param_groups:
            group.update(options)
        return self

    def weights(self) -> list[Tensor]:
        """Return copies of the weights."""
        return [p.detach().clone() for p in self.params]

    def snapshot(self) -> tuple[list[Tensor], dict[str, Any]]:
        """Return copies of the weights and of everything that the optimizer would save."""
        return self.weights(), copy.deepcopy(self.optimizer.state_dict())

    def points(self) -> Iterator[tuple[Region, list[int]]]:
        """Yield every constrained point: its region and the numbers of its parameters."""
        first = 0
        for group in self.optimizer.param_groups:
            region, count = group.get("region"), len(group["params"])
            if isinstance(region, Region):
                for start in range(first, first + count, region.arity):
                    yield region, list(range(start, start + region.arity))
            first += count

    def neighbours(self, number: int) -> set[int]:
        """Return the numbers of the parameters that are one point with this one, itself included."""
        return {number}.union(*(members for _, members in self.points() if number in members))

    def excess(self) -> float:
        """Return the largest value / radius - 1 over all points, -1 if there is none."""
        params = self.params
        values = [
            float(region.value(_point(region, [params[i].detach() for i in members]))) / region.radius
            for region, members in self.points()
        ]
        return max([0.0, *values]) - 1.0 if all(v == v for v in values) else float("nan")  # noqa: PLR0124  (NaN)

    @torch.no_grad()
    def enter(self) -> None:
        """Scale all points into their regions."""
        params = self.params
        for region, members in self.points():
            inside = tensors(region.scale_into(_point(region, [params[i].detach() for i in members])))
            for i, new in zip(members, inside, strict=True):
                params[i].copy_(new)


def _point(region: Region, parts: list[Tensor]) -> Any:  # noqa: ANN401  (Tensor or sequence, as the region takes it)
    return parts[0] if region.arity == 1 else parts
