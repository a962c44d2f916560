"""Balls on the channels that a cut removes: everything that makes a channel, in every layer, is one atom."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence

from torch import nn

from pliant.regions.ball import Ball
from pliant.regions.composite import Coupled, Scaled
from pliant.regions.slices import channels_along
from pliant.structure.channels import ChannelGroup, Member, Role, channel_graph
from pliant.structure.channels.kinds import Layers, choose_groups
from pliant.structure.example import Example
from pliant.structure.group import Group
from pliant.structure.patterns import check_ignore
from pliant.structure.radius import initial_norm
from pliant.structure.rules import Slot
from pliant.structure.treatment import Constraint

_LOG = logging.getLogger(__name__)
MAKERS = (Role.OUTPUT, Role.BIAS, Role.SCALE, Role.SHIFT)


def channel_groups(
    model: nn.Module, example: Example, *, layers: Layers, ignore: Sequence[str]
) -> tuple[ChannelGroup, ...]:
    """Return the channels that can go; what stays is logged with the reason.

    Args:
        model: the model.
        example: what it can be called with.
        layers: the kinds of layers that are meant.
        ignore: patterns of layer names; what loses channels together with such a layer stays too.

    Raises:
        ValueError: if there are none, or patterns are one string.
    """
    check_ignore(ignore)
    graph = channel_graph(model, example)
    choice = choose_groups(model, graph.groups, kind=layers, ignore=ignore)
    kept = dict(graph.refused) | {group.name: reason for group, reason in choice.aside}
    for name, reason in kept.items():
        _LOG.info("no ball holds the channels of %s: %s", name, reason)
    if not choice.groups:
        told = "; ".join(f"{name}: {reason}" for name, reason in kept.items()) or "it has no fitting layer"
        raise ValueError(f"no channel of the model can be cut, so that none is left to constrain: {told}")
    return tuple(choice.groups)


def coupled_balls(slots: Sequence[Slot], groups: Sequence[ChannelGroup], constraint: Constraint) -> list[Group]:
    """Return one group of parameters per group of channels: all tensors that make its channels.

    These are filters, rows of linear layers, biases, norm scales and shifts; columns that read the channels and running
    statistics are none of them. A tensor takes part if it is trainable, if all its slices along the dimension belong to
    this one group, and if no group before took it along another dimension. Every tensor is measured in units of its
    initial norm, and the radius grows with the square root of their number.

    Args:
        slots: the parameters.
        groups: of a channel graph.
        constraint: gauge and radius rule.
    """
    free = {slot.name: slot for slot in slots}
    found = []
    for group in groups:
        members = [member for member in group.of(*MAKERS) if _is_whole(member, free)]
        members = list({member.tensor: member for member in reversed(members)}.values())[::-1]
        if any(member.role is Role.OUTPUT for member in members):
            found.append(_group([free.pop(member.tensor) for member in members], members, group.atoms, constraint))
        else:
            _LOG.info("no ball holds the channels of %s: no trainable weight makes them alone", group.name)
    return found


def _is_whole(member: Member, free: Mapping[str, Slot]) -> bool:
    if member.tensor not in free:
        return False
    whole = member.positions.total == member.size
    if not whole:
        _LOG.info("%s is left to others: only a part of its channels belongs to one group", member.tensor)
    return whole


def _group(slots: Sequence[Slot], members: Sequence[Member], atoms: int, constraint: Constraint) -> Group:
    view = Coupled(tuple(channels_along(member.dim, _owners(member), atoms) for member in members))
    factors = tuple(1.0 / initial_norm(slot.module, slot.local, slot.parameter) for slot in slots)
    radius = constraint.radius.radius(constraint.gauge, atoms, math.sqrt(len(members)))
    return Group(tuple(slots), Ball(constraint.gauge, Scaled(view, factors), radius))


def _owners(member: Member) -> list[int]:
    """Return the atom of every slice."""
    pairs = [(place, atom) for atom in member.positions.covers() for place in member.positions.of([atom]).tolist()]
    return [atom for _, atom in sorted(pairs)]
