"""Regions of sliced parameters: the part of the old region in which the removed atoms are zero."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import singledispatch
from typing import Any

from torch import nn

from pliant.compress.carry import slicing
from pliant.compress.carry.slicing import CarryError
from pliant.regions import Axes, Ball, Coupled, Filters, Gauge, Joint, Region, Scaled, Singular, Slices, View
from pliant.regions.slices import channels_along
from pliant.structure.matricise import CONVOLUTIONS, TRANSPOSED, axes_of


@dataclass(frozen=True)
class Change:
    """One tensor of a point, before and after a cut.

    Args:
        name: of the parameter.
        before: its shape.
        after: its shape.
        axes: how it was read as matrices, and how it must be now; they differ where a convolution lost whole groups.
        lost: the slices that it lost.
    """

    name: str
    before: tuple[int, ...]
    after: tuple[int, ...]
    axes: tuple[Axes, Axes] = (Axes(), Axes())
    lost: slicing.Slices = ()


def axes_change(old: nn.Module, new: nn.Module, local: str) -> tuple[Axes, Axes]:
    """Return how a parameter is read as matrices before and after a cut.

    Args:
        old: the module that owns it before the cut.
        new: the module that owns it afterwards.
        local: its name in the module.
    """
    before = axes_of(old, local)
    groups_change = isinstance(new, (*CONVOLUTIONS, *TRANSPOSED))
    return before, axes_of(new, local) if groups_change else before


def narrowed(region: Region, points: Sequence[Sequence[Change]]) -> Region:
    """Return the region of sliced parameters.

    It is the old region intersected with the subspace in which what was removed is zero: the radius stays, and k is
    the count that it was before the cut, or all atoms where fewer are left. So the norm of a truncated weight is that
    of the sliced one, feasible weights stay feasible, and training goes on as it would with the removed atoms held
    at zero. (A fraction of fewer atoms would be a smaller ball, and weights that were inside might lie outside.)

    Args:
        region: of one parameter group.
        points: its points, each `region.arity` tensors.

    Raises:
        CarryError: naming the parameters, if no one region fits all points any more.
    """
    if not isinstance(region, Ball):
        _check(region, points)
        return region
    views = {refit(region.view, point) for point in points}
    if len(views) > 1:
        raise _divided(points)
    view = views.pop()
    result = replace(region, view=view)
    _check(result, points)
    counts = [
        (region.view.count(*[change.before for change in point]), view.count(*[change.after for change in point]))
        for point in points
    ]
    return replace(result, gauge=_gauge(region.gauge, counts, points))


@singledispatch
def refit(view: View, changes: Sequence[Change]) -> View:  # noqa: ARG001  (for views that know their slices)
    """Return a view for what is left of its tensors.

    Args:
        view: before the cut.
        changes: one for each of its tensors.
    """
    return view


@refit.register
def _(view: Filters, changes: Sequence[Change]) -> View:
    ((before, after),) = (change.axes for change in changes)
    return replace(view, axes=after) if view.axes == before else view


@refit.register
def _(view: Singular, changes: Sequence[Change]) -> View:
    ((before, after),) = (change.axes for change in changes)
    return replace(view, axes=after) if view.axes == before else view


@refit.register
def _(view: Scaled, changes: Sequence[Change]) -> View:
    return replace(view, view=refit(view.view, changes))


@refit.register
def _(view: Slices, changes: Sequence[Change]) -> View:
    return _without_atoms([view], changes)[0]


@refit.register
def _(view: Coupled, changes: Sequence[Change]) -> View:
    if all(isinstance(member, Filters) for member in view.members):
        return replace(view, members=_refit_members(view.members, changes))
    return replace(view, members=tuple(_without_atoms(view.members, changes)))


@refit.register
def _(view: Joint, changes: Sequence[Change]) -> View:
    return replace(view, members=_refit_members(view.members, changes))


def _refit_members(members: Sequence[View], changes: Sequence[Change]) -> tuple[Any, ...]:
    found, start = [], 0
    for member in members:
        found.append(refit(member, changes[start : start + member.arity]))
        start += member.arity
    return tuple(found)


def _without_atoms(members: Sequence[Filters | Slices], changes: Sequence[Change]) -> list[Filters | Slices]:
    """Return views of what is left: an atom is gone when none of its slices is left in any of the tensors."""
    left = []
    for member, change in zip(members, changes, strict=True):
        dim, owners = _owners(member, change)
        removed = set(dict(change.lost).get(dim, ()))
        left.append((dim, [atom for place, atom in enumerate(owners) if place not in removed]))
    alive = sorted({atom for _, owners in left for atom in owners})
    number = {atom: index for index, atom in enumerate(alive)}
    return [
        channels_along(dim, [number[atom] for atom in owners], len(alive), member.batch)
        for member, (dim, owners) in zip(members, left, strict=True)
    ]


def _owners(view: Filters | Slices, change: Change) -> tuple[int, Sequence[int]]:
    """Return a dimension, and the atom of each slice along it."""
    if isinstance(view, Slices):
        return view.dim, view.owners
    if view.axes.out and view.axes.groups > 1:
        raise CarryError(f"the channels of {change.name!r}, {view.axes}, are no slices along one dimension")
    return view.axes.out, range(view.count(change.before))


def _divided(points: Sequence[Sequence[Change]]) -> CarryError:
    return CarryError(
        f"{_names(points)} share one parameter group whose region would have to differ between them after the cut; "
        "give each of them a group of its own, as a Plan does"
    )


def _gauge(gauge: Gauge, counts: Sequence[tuple[int, int]], points: Sequence[Sequence[Change]]) -> Gauge:
    """Return the gauge that is on what is left of every point what the old one was on the whole."""
    wanted = [(gauge.at(before).at(after), after) for before, after in counts]
    candidates = (gauge, *(gauge.at(before) for before, _ in counts))
    fitting = [one for one in candidates if all(one.at(after) == want for want, after in wanted)]
    if not fitting:
        raise _divided(points)
    return fitting[0]


def _check(region: Region, points: Sequence[Sequence[Change]]) -> None:
    for point in points:
        shapes: Any = [change.after for change in point]
        try:
            region.diameter(shapes if region.arity > 1 else shapes[0])
        except ValueError as error:
            raise CarryError(f"the region of {_names([point])} does not fit what is left of them: {error}") from error


def _names(points: Sequence[Sequence[Change]]) -> str:
    return ", ".join(repr(change.name) for point in points for change in point)
