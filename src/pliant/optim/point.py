"""One point of a region inside the optimizer: its tensors, their state, and the Frank-Wolfe step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pliant.optim.steps import Situation
from pliant.regions.region import Region, tensors


@dataclass(frozen=True)
class Point:
    """Parameters that are one point of a region.

    Args:
        region: where the point may be.
        names: parameter names.
        params: the parameters, `region.arity` of them.
        states: the optimizer's state of each.
    """

    region: Region
    names: tuple[str, ...]
    params: Sequence[Tensor]
    states: Sequence[dict[str, Any]]

    def step(self, group: dict[str, Any]) -> None:
        """Take one step with the hyper-parameters of the group; nothing happens if no parameter has a gradient."""
        if all(p.grad is None for p in self.params):
            return
        head = self._prepare()
        momentum = self._advance(group["momentum"], group["dampening"])
        vertices = self._vertices(momentum)
        now = Situation(self.params, vertices, momentum, self.region.diameter(self._shape()), head["steps"])
        alpha = _scalar(group["lr"] * group["step_rule"].factor(now), head["steps"]).clamp(0.0, 1.0)
        for p, vertex in zip(self.params, vertices, strict=True):
            if p.grad is not None:
                p.lerp_(vertex, alpha.to(p.dtype))
        head["steps"] += 1
        head["step_size"].copy_(alpha)
        head["shrinkage"] += alpha
        head["kept"] *= 1 - alpha

    def direction(self) -> list[Tensor]:
        """Return the gradients; for parameters without one the momentum, or zero."""
        pairs = zip(self.params, self.states, strict=True)
        return [s.get("momentum_buffer", torch.zeros_like(p)) if p.grad is None else p.grad for p, s in pairs]

    def as_point(self, parts: Sequence[Tensor]) -> Any:  # noqa: ANN401  (Tensor or Sequence[Tensor], as the region takes it)
        """Return tensors as the region takes them: one tensor, or a sequence."""
        return parts[0] if self.region.arity == 1 else tuple(parts)

    def _prepare(self) -> dict[str, Any]:
        """Return the state of the first parameter, which keeps the account of the whole point."""
        for p, state in zip(self.params, self.states, strict=True):
            if "momentum_buffer" not in state and p.grad is not None:
                state["momentum_buffer"] = torch.zeros_like(p, memory_format=torch.preserve_format)
        head = self.states[0]
        for key, start in (("steps", 0.0), ("step_size", 0.0), ("shrinkage", 0.0), ("kept", 1.0)):
            if key not in head:
                head[key] = torch.full((), start, dtype=self.params[0].dtype, device=self.params[0].device)
        return head

    def _advance(self, momentum: float, dampening: float) -> list[Tensor]:
        """Update the momentum and return it; zero for parameters without gradient, so that they choose no vertex."""
        result = []
        for p, state in zip(self.params, self.states, strict=True):
            if p.grad is None:
                result.append(torch.zeros_like(p))
            else:
                result.append(state["momentum_buffer"].mul_(momentum).add_(p.grad, alpha=1.0 - dampening))
        return result

    def _vertices(self, momentum: Sequence[Tensor]) -> list[Tensor]:
        vertices = list(tensors(self.region.lmo(self.as_point(momentum))))
        still = [p if p.grad is None else torch.zeros_like(p) for p in self.params]
        if all(p.grad is not None for p in self.params):
            return vertices
        # What does not move takes up room in the region; the vertex of the rest has what is left of the radius. What
        # does not move is its own vertex: no step rule may count its distance from another.
        room = (1.0 - self.region.value(self.as_point(still)) / self.region.radius).clamp_min(0.0)
        pairs = zip(self.params, vertices, strict=True)
        return [p if p.grad is None else vertex * room.to(vertex.dtype) for p, vertex in pairs]

    def _shape(self) -> Any:  # noqa: ANN401  (a shape or a sequence of shapes)
        shapes = [tuple(p.shape) for p in self.params]
        return shapes[0] if self.region.arity == 1 else shapes


def _scalar(value: Tensor | float, like: Tensor) -> Tensor:
    """Return a number as a tensor like `like`, in its full precision and without waiting for the device."""
    if isinstance(value, Tensor):
        return value.reshape(()).to(like, non_blocking=True)
    return torch.full_like(like, value)
