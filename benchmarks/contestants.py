"""Optimizers that compete: each on a copy of the same network, fed with the same gradients."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from benchmarks.literal import Best, LiteralSFW, block_power, full_svd
from benchmarks.timing import Effort, Timing, compare
from benchmarks.workloads import Drift, Net
from pliant import SFW, Constraint, FastGradientScaled, Filters, Free, Plan, Rule, TopK
from pliant.structure.matricise import PRUNABLE

LR = 1e-3
K = 0.1


class Steps(Protocol):
    """What can take an optimizer step."""

    def step(self) -> object:
        """Take one step."""


@dataclass(frozen=True)
class Contestant:
    """An optimizer and its own parameters.

    Args:
        parameters: one for each of the network's, in order; None: it leaves this one out.
        optimizer: over them.
    """

    parameters: Sequence[Tensor | None]
    optimizer: Steps

    def give(self, gradients: Iterable[Tensor | None]) -> None:
        """Hand over the network's gradients, without copying them."""
        for p, g in zip(self.parameters, gradients, strict=True):
            if p is not None and g is not None:
                p.grad = g if g.shape == p.shape else g.reshape(p.shape)


class Entry(ABC):
    """How to enter the contest with a network."""

    name: str

    @abstractmethod
    def enter(self, model: nn.Module) -> Contestant:
        """Return the optimizer on a copy of the network."""


@dataclass(frozen=True)
class Plain(Entry):
    """An unconstrained optimizer of torch on all parameters."""

    name: str
    make: Callable[[Iterable[Tensor]], Optimizer]

    def enter(self, model: nn.Module) -> Contestant:
        parameters = list(copy.deepcopy(model).parameters())
        return Contestant(parameters, self.make(parameters))


@dataclass(frozen=True)
class Muon(Entry):
    """`torch.optim.Muon`, which takes matrices only: convolutions as (filters, entries); vectors are left out."""

    name: str = "Muon, matrices only"

    def enter(self, model: nn.Module) -> Contestant:
        matrices = [nn.Parameter(p.detach().flatten(1).clone()) if p.ndim > 1 else None for p in model.parameters()]
        present = [matrix for matrix in matrices if matrix is not None]
        return Contestant(matrices, torch.optim.Muon(present, lr=LR))


@dataclass(frozen=True)
class Constrained(Entry):
    """SFW under a plan."""

    name: str
    plan: Callable[..., Plan]
    options: dict[str, Any] = field(default_factory=dict)

    def enter(self, model: nn.Module) -> Contestant:
        own = copy.deepcopy(model)
        plan = self.plan(own, k=K)
        return Contestant(list(own.parameters()), SFW(plan, lr=LR, **self.options))


@dataclass(frozen=True)
class Literal(Entry):
    """The published algorithm, unoptimised, under a plan."""

    name: str
    plan: Callable[..., Plan]
    best: Best = full_svd

    def enter(self, model: nn.Module) -> Contestant:
        own = copy.deepcopy(model)
        return Contestant(list(own.parameters()), LiteralSFW(self.plan(own, k=K), self.best, lr=LR))


VIEWS: dict[str, Callable[..., Plan]] = {
    "entries": Plan.for_unstructured,
    "filters": Plan.for_filters,
    "singular": Plan.for_low_rank,
}


def filters_everywhere(model: nn.Module, *, k: float) -> Plan:
    """Constrain the filters of all convolutions and linear layers, and nothing else."""
    rule = Rule(Constraint(TopK(k), Filters), modules=PRUNABLE, local="weight")
    return Plan.from_rules(model, [rule, Rule(Free())])


SGD = Plain("SGD, foreach", lambda ps: torch.optim.SGD(ps, lr=LR, momentum=0.9, foreach=True))
FUSED = Plain("SGD, fused", lambda ps: torch.optim.SGD(ps, lr=LR, momentum=0.9, fused=True))
ADAMW = Plain("AdamW, foreach", lambda ps: torch.optim.AdamW(ps, lr=LR, foreach=True))
DEFAULTS = tuple(Constrained(f"SFW {name}", plan) for name, plan in VIEWS.items())
EVERYWHERE = Constrained("SFW filters, of linear layers too", filters_everywhere)
LITERALS = (
    Literal("literal entries", Plan.for_unstructured),
    Literal("literal filters", Plan.for_filters),
    Literal("literal singular, block power", Plan.for_low_rank, block_power),
    Literal("literal singular, full SVD", Plan.for_low_rank, full_svd),
)
_OPTIONS: dict[str, dict[str, Any]] = {
    "fast rule": {"step_rule": FastGradientScaled()},
    "exact": {"exact": True},
    "loop": {"foreach": False},
}


def contest(entries: Sequence[Entry], model: nn.Module, *, device: torch.device, effort: Effort) -> dict[str, Timing]:
    """Time the steps of all entries in turns, on gradients that drift from round to round."""
    contestants = {entry.name: entry.enter(model) for entry in entries}
    drift = Drift.of(model, device)

    def move() -> None:
        drift.move()
        for contestant in contestants.values():
            contestant.give(drift.gradients)

    steps: dict[str, Callable[[], object]] = {name: one.optimizer.step for name, one in contestants.items()}
    return compare(steps, device=device, effort=effort, between=move)


def constrained(net: Net) -> tuple[Constrained, ...]:
    """Return SFW as it is used on a network, once a view."""
    return (*DEFAULTS, EVERYWHERE) if net.linear else DEFAULTS


def variants() -> list[Constrained]:
    """Return SFW under each plan with the options that change its speed."""
    return [
        Constrained(f"SFW {name}, {title}", plan, options)
        for name, plan in VIEWS.items()
        for title, options in _OPTIONS.items()
    ]
