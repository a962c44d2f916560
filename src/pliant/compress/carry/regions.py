"""Regions and penalties of sliced parameters: what the old ones are where the removed atoms are zero."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import singledispatch
from typing import Any, TypeVar

from torch import nn

from pliant.compress.carry import slicing
from pliant.compress.carry.slicing import CarryError
from pliant.optim.proximal import Regulariser
from pliant.regions import (
    Axes,
    Ball,
    Coupled,
    Filters,
    Gauge,
    Joint,
    Penalty,
    Region,
    Scaled,
    Singular,
    Slices,
    SparseGroupLasso,
    View,
)
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
    result = _refitted(region, points, "region") if isinstance(region, Ball) else region
    for point in points:
        shapes: Any = [change.after for change in point]
        try:
            result.diameter(shapes if result.arity > 1 else shapes[0])
        except ValueError as error:
            raise _unfit(point, "region", error) from error
    return result


@singledispatch
def narrowed_penalty(penalty: Regulariser, points: Sequence[Sequence[Change]]) -> Regulariser:
    """Return the penalty of sliced parameters.

    Its weight stays, and k is the count that it was, so that its value at a truncated weight is that at the sliced one.
    The group lasso is the exception: it goes with the root of the size of a filter, which is what is left of it.

    Args:
        penalty: of one parameter group.
        points: its points, each `penalty.view.arity` tensors.

    Raises:
        CarryError: naming the parameters, if no one penalty fits all points any more, or one of an unknown kind would
            have to change.
    """
    if _view_left(penalty.view, points, "penalty") != penalty.view:
        raise CarryError(
            f"the penalty {penalty!r} must read {_names(points)} otherwise after the cut, and nothing says how; build "
            'a new optimizer for the smaller model, or empty the group before: group["penalties"] = ()'
        )
    return penalty


@narrowed_penalty.register
def _(penalty: Penalty, points: Sequence[Sequence[Change]]) -> Regulariser:
    return _refitted(penalty, points, "penalty")


@narrowed_penalty.register
def _(penalty: SparseGroupLasso, points: Sequence[Sequence[Change]]) -> Regulariser:
    return replace(penalty, view=_view_left(penalty.view, points, "penalty"))


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
    return replace(view, axes=_axes_left(view.axes, changes))


@refit.register
def _(view: Singular, changes: Sequence[Change]) -> View:
    return replace(view, axes=_axes_left(view.axes, changes))


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


def _axes_left(axes: Axes, changes: Sequence[Change]) -> Axes:
    ((before, after),) = (change.axes for change in changes)
    return replace(axes, groups=after.groups) if axes.groups == before.groups else axes


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


_Held = TypeVar("_Held", Ball, Penalty)


def _refitted(held: _Held, points: Sequence[Sequence[Change]], what: str) -> _Held:
    """Return a ball or a penalty whose norm of what is left is the old norm of the truncated weights."""
    view = _view_left(held.view, points, what)
    counts = [
        (held.view.count(*[change.before for change in point]), view.count(*[change.after for change in point]))
        for point in points
    ]
    return replace(held, view=view, gauge=_gauge(held.gauge, counts, points, what))


def _view_left(view: Any, points: Sequence[Sequence[Change]], what: str) -> Any:  # noqa: ANN401  (view of one kind)
    """Return the one view of what is left of all points."""
    views = {refit(view, point) for point in points}
    if len(views) > 1:
        raise _divided(points, what)
    left = views.pop()
    for point in points:
        try:
            left.count(*[change.after for change in point])
        except ValueError as error:
            raise _unfit(point, what, error) from error
    return left


def _gauge(gauge: Gauge, counts: Sequence[tuple[int, int]], points: Sequence[Sequence[Change]], what: str) -> Gauge:
    """Return the gauge that is on what is left of every point what the old one was on the whole."""
    wanted = [(gauge.at(before).at(after), after) for before, after in counts]
    candidates = (gauge, *(gauge.at(before) for before, _ in counts))
    fitting = [one for one in candidates if all(one.at(after) == want for want, after in wanted)]
    if not fitting:
        raise _divided(points, what)
    return fitting[0]


def _divided(points: Sequence[Sequence[Change]], what: str) -> CarryError:
    return CarryError(
        f"{_names(points)} share one parameter group whose {what} would have to differ between them after the cut; "
        "give each of them a group of its own, as a Plan and penalised_groups do"
    )


def _unfit(point: Sequence[Change], what: str, error: ValueError) -> CarryError:
    return CarryError(f"the {what} of {_names([point])} does not fit what is left of them: {error}")


def _names(points: Sequence[Sequence[Change]]) -> str:
    return ", ".join(repr(change.name) for point in points for change in point)
