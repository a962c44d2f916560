"""Groups of a plan: parameters that make one point of a region, or that are free together."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from pliant.regions.ball import Ball
from pliant.regions.composite import Coupled, Scaled
from pliant.regions.gauges import Gauge, Lp, TopK
from pliant.regions.region import Region, tensors
from pliant.regions.views import Entries, Filters, Singular, View
from pliant.sharding import put, whole
from pliant.structure.matricise import axes_of
from pliant.structure.radius import initial_norm
from pliant.structure.rules import Slot
from pliant.structure.treatment import Constraint, Free


@dataclass(frozen=True)
class Group:
    """Parameters that make one point of a region, or that are free together.

    Args:
        slots: the parameters and where they live.
        target: the region that they are one point of, or `Free`.
    """

    slots: tuple[Slot, ...]
    target: Region | Free

    @property
    def names(self) -> tuple[str, ...]:
        """Qualified parameter names."""
        return tuple(slot.name for slot in self.slots)

    def options(self) -> dict[str, Any]:
        """Return the group as `SFW` takes it."""
        params = [(slot.name, slot.parameter) for slot in self.slots]
        if isinstance(self.target, Region):
            return {"params": params, "region": self.target}
        free = self.target
        return {
            "params": params,
            "region": None,
            "lr": free.lr,
            "momentum": free.momentum,
            "weight_decay": free.weight_decay,
        }

    def check(self) -> None:
        """Check that the region can hold parameters of these shapes.

        Raises:
            ValueError: naming the parameters.
        """
        shapes = [tuple(slot.parameter.shape) for slot in self.slots]
        if isinstance(self.target, Region):
            try:
                self.target.diameter(shapes if self.target.arity > 1 else shapes[0])
            except ValueError as error:
                raise ValueError(
                    f"{', '.join(self.names)} of shape {shapes} do not fit their region: {error}"
                ) from error

    @torch.no_grad()
    def scale_into(self) -> float | None:
        """Scale the weights into the region in place; return their norm before, or None if they were inside.

        Collective where the weights are sharded.

        Raises:
            ValueError: naming the weights that are not finite.
        """
        if not isinstance(self.target, Region):
            return None
        weights = [whole(slot.parameter.detach()) for slot in self.slots]
        if diverged := [n for n, weight in zip(self.names, weights, strict=True) if not weight.isfinite().all()]:
            raise ValueError(
                "weights must be finite to be scaled into a region, found NaN or infinity in "
                f"{', '.join(diverged)}; start from weights of before the training diverged"
            )
        point: Any = weights[0] if self.target.arity == 1 else weights
        if self.target.contains(point):  # up to rounding, so that weights on the boundary stay as they are
            return None
        value = float(self.target.value(point))
        for slot, new in zip(self.slots, tensors(self.target.scale_into(point)), strict=True):
            put(slot.parameter, new)
        return value


def constrained(slot: Slot, constraint: Constraint) -> Group:
    """Return the group of one constrained parameter."""
    view = _view_of(slot, constraint)
    n0 = initial_norm(slot.module, slot.local, slot.parameter)
    radius = constraint.radius.radius(constraint.gauge, view.count(slot.parameter.shape), n0)
    return Group((slot,), Ball(constraint.gauge, view, radius))


def _view_of(slot: Slot, constraint: Constraint) -> View:
    if constraint.view is Entries:
        return Entries()
    axes = axes_of(slot.module, slot.local)
    return Filters(axes) if constraint.view is Filters else Singular(axes)


def joined(
    slots: Sequence[Slot], layers: Mapping[str, nn.Module], norm_of: Mapping[str, str], constraint: Constraint
) -> list[Group]:
    """Return one group per layer: its weight and bias, and the scale and shift of the norm layer that follows.

    Every tensor is measured in units of its initial norm, and the radius grows with the square root of their number.
    """
    groups = []
    for name in layers:
        owners = {name, norm_of.get(name, name)}
        members = [slot for slot in slots if slot.name.rpartition(".")[0] in owners]
        if not any(slot.module is layers[name] and slot.local == "weight" for slot in members):
            continue  # frozen or tied to an earlier layer
        coupled = Coupled(tuple(Filters(axes_of(slot.module, slot.local)) for slot in members))
        factors = tuple(1.0 / initial_norm(slot.module, slot.local, slot.parameter) for slot in members)
        count = coupled.count(*[slot.parameter.shape for slot in members])
        radius = constraint.radius.radius(constraint.gauge, count, math.sqrt(len(members)))
        groups.append(Group(tuple(members), Ball(constraint.gauge, Scaled(coupled, factors), radius)))
    return groups


def describe(group: Group) -> list[tuple[str, str, str, str, str, str]]:
    """Return a table row per parameter: name, shape, region, k, radius, diameter."""
    shapes = [tuple(slot.parameter.shape) for slot in group.slots]
    target = group.target
    if isinstance(target, Free):
        text = f"free, SGD lr {target.lr:g}, momentum {target.momentum:g}, decay {target.weight_decay:g}"
        tail = (text, "", "", "")
    else:
        diameter = target.diameter(shapes if target.arity > 1 else shapes[0])
        tail = (_title(target), _k(target, shapes), f"{target.radius:.4g}", f"{diameter:.4g}")
    rows = []
    for index, (slot, shape) in enumerate(zip(group.slots, shapes, strict=True)):
        lead = isinstance(target, Free) or index == 0
        rows.append(
            (slot.name, "x".join(map(str, shape)) or "scalar", *(tail if lead else ("  + the above", "", "", "")))
        )
    return rows


def _title(region: Region) -> str:
    if not isinstance(region, Ball):
        return type(region).__name__
    return f"{_gauge(region.gauge)} on {_view(region.view)}"


def _gauge(gauge: Gauge) -> str:
    if isinstance(gauge, TopK):
        return {2.0: "k-support", math.inf: "k-sparse"}[gauge.p]
    return f"l{gauge.p:g}" if isinstance(gauge, Lp) else type(gauge).__name__


def _view(view: View) -> str:
    if isinstance(view, Scaled):
        return _view(view.view)
    return {Entries: "entries", Filters: "filters", Singular: "singular values", Coupled: "channels"}.get(
        type(view), type(view).__name__
    )


def _k(region: Region, shapes: Sequence[Sequence[int]]) -> str:
    if not isinstance(region, Ball) or not isinstance(region.gauge, TopK):
        return ""
    n = region.view.count(*shapes)
    at = region.gauge.at(n)
    return f"{at.k if isinstance(at, TopK) else '?'} of {n}"
