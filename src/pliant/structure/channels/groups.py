"""From labels to groups of atoms."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from torch import nn

from pliant.structure.channels.attributes import attributes_of, unambiguous
from pliant.structure.channels.graph import Attribute, ChannelGraph, ChannelGroup, Member, Role
from pliant.structure.channels.labels import Labels, Source, components
from pliant.structure.channels.positions import Indices, positions_of

_UNUSED = "nothing that the example runs through uses it: code that does may not fit what was cut"
_UNMADE = "no layer makes its channels"
_TIED = "all its channels are tied together"
_REST = "all its other channels must stay"
_ORDER = {role: index for index, role in enumerate(Role)}


@dataclass(frozen=True)
class _Slices:
    """One dimension of a tensor: the class of each of its slices, 0 where it must stay."""

    source: Source
    classes: Indices
    role: Role


@dataclass(frozen=True)
class _Findings:
    """What the labels say.

    Args:
        model: the model.
        labels: of its run.
        classes: label -> class, 0 where it must stay.
        slices: all dimensions of all tensors.
        roots: class -> the smallest class of its group.
        reasons: start of a source -> why its slices stay.
        notes: class -> why it is as large as it is.
    """

    model: nn.Module
    labels: Labels
    classes: Indices
    slices: Sequence[_Slices]
    roots: Indices
    reasons: dict[int, str]
    notes: Mapping[int, str]

    def reason(self, source: Source) -> str:
        """Return why the slices of a dimension stay."""
        return self.reasons[source.start]

    def why_one(self, members: Sequence[_Slices], atom: int) -> str:
        """Return why a group has no more than one atom."""
        whole = all((one.classes == atom).all() for one in members if one.role is Role.OUTPUT)
        return self.notes.get(atom, _TIED if whole else _REST)


def read_groups(model: nn.Module, labels: Labels, used: Collection[str]) -> ChannelGraph:
    """Return the channel graph that runs of a model found.

    Args:
        model: the model.
        labels: of its runs.
        used: names of the parameters and buffers that operators were given.
    """
    found = _find(model, labels, used)
    groups: dict[str, ChannelGroup] = {}
    refused: dict[str, str] = {}
    for root, members in _by_root(found.slices, found.roots).items():
        names = [layer_name(one.source) for one in members if one.role is Role.OUTPUT]
        atoms = np.unique(np.concatenate([one.classes[found.roots[one.classes] == root] for one in members]))
        if names and len(atoms) < 2:
            reason = found.why_one(members, int(atoms[0]))
            refused.update(dict.fromkeys(names, reason))
            found.reasons.update({one.source.start: reason for one in members})
        elif names:
            group = _group(found, _free(names[0], groups, members[0].source), members, root)
            groups[group.name] = group
    refused |= _fixed(found, {*refused, *groups}, {m.tensor for group in groups.values() for m in group.members})
    return ChannelGraph(tuple(unambiguous(list(groups.values()))), refused)


def _find(model: nn.Module, labels: Labels, used: Collection[str]) -> _Findings:
    classes, connected = labels.classes(), labels.connected()
    slices = [
        _Slices(source, classes[source.start : source.start + source.size], labels.roles.get(index, Role.OTHER))
        for index, source in enumerate(labels.sources)
        if source.tensor
    ]
    roots = components(labels.count, [_chain(one.classes) for one in slices if one.role is Role.OUTPUT])
    reasons, notes = labels.reasons(connected), labels.notes(connected)
    told = {
        one.source.start: reasons.get(
            int(connected[one.source.start]), _UNMADE if one.source.tensor in used else _UNUSED
        )
        for one in slices
    }
    return _Findings(model, labels, classes, slices, roots, told, notes)


def _fixed(found: _Findings, told: Collection[str], members: Collection[str]) -> dict[str, str]:
    """Return layer or tensor name -> why nothing of it can go.

    Told of are what makes channels, other matrices, and what the example does not use.
    """
    refused: dict[str, str] = {}
    for one in found.slices:
        if one.role is Role.OUTPUT and not one.classes.any() and layer_name(one.source) not in told:
            refused[layer_name(one.source)] = found.reason(one.source)
    known, parameters = {*told, *refused}, dict(found.model.named_parameters())
    for one in sorted(found.slices, key=lambda one: one.source.size, reverse=True):
        tensor = one.source.tensor
        if tensor not in members and layer_name(one.source) not in known and tensor in parameters:
            reason = found.reason(one.source)
            if parameters[tensor].ndim > 1 or (reason == _UNUSED and parameters[tensor].numel() > 1):
                refused.setdefault(tensor, reason)
    return refused


def layer_name(source: Source) -> str:
    """Return the layer that a tensor makes: its module if it is the weight of one."""
    return source.tensor.removesuffix(".weight")


def _free(name: str, taken: Mapping[str, ChannelGroup], source: Source) -> str:
    return f"{name}[{source.dim}]" if name in taken else name


def _chain(classes: Indices) -> Indices:
    """Return pairs that connect all classes of one dimension but 0."""
    found = np.unique(classes[classes > 0])
    return np.stack((found[:-1], found[1:]), axis=1)


def _by_root(slices: Sequence[_Slices], roots: Indices) -> dict[int, list[_Slices]]:
    found: dict[int, list[_Slices]] = {}
    for one in slices:
        for root in np.unique(roots[one.classes[one.classes > 0]]).tolist():
            found.setdefault(root, []).append(one)
    return {root: sorted(members, key=lambda one: _ORDER[one.role]) for root, members in found.items()}


def _group(found: _Findings, name: str, members: Sequence[_Slices], root: int) -> ChannelGroup:
    inside = found.roots == root
    inside[0] = False
    order: dict[int, int] = {}
    for one in members:
        for label in one.classes[inside[one.classes]].tolist():
            order.setdefault(label, len(order))
    cut = []
    for one in members:
        places = np.flatnonzero(inside[one.classes])
        atoms = np.asarray([order[label] for label in one.classes[places].tolist()], dtype=np.int64)
        source = one.source
        cut.append(Member(source.tensor, source.dim, source.size, positions_of(atoms, places), one.role))
    named = tuple(_named(member, cut) for member in cut)
    counted = [Attribute(*key, per_atom) for key, per_atom in _counted(found, order).items()]
    return ChannelGroup(name, len(order), named, (*attributes_of(found.model, named, len(order)), *counted))


def _counted(found: _Findings, order: Mapping[int, int]) -> dict[tuple[str, str], int]:
    """Return how far numbers that norm layers keep fall with every atom.

    A norm layer with tensors of its own is known; one without any has nothing else that tells its width.
    """
    falls: dict[tuple[str, str], int] = {}
    for module, name, counted in found.labels.counts:
        owner = found.model.get_submodule(module)
        sliced = name == "num_features" and any(True for _ in (*owner.parameters(), *owner.buffers()))
        if sliced or vars(owner).get(name) != len(counted):
            continue
        atoms = [order[label] for label in found.classes[counted].tolist() if label in order]
        times = set(np.bincount(atoms, minlength=len(order)).tolist()) if atoms else {0}
        if len(times) == 1 and times != {0}:
            falls[module, name] = times.pop()
    return falls


def _named(member: Member, members: Sequence[Member]) -> Member:
    """Return a member with its role: what is added to a layer's output by hand is a bias all the same."""
    beside = [one for one in members if one.role is Role.OUTPUT and one.layer == member.layer]
    is_bias = member.role is Role.OTHER and any(member.size == one.size and member.dim == 0 for one in beside)
    return replace(member, role=Role.BIAS) if is_bias else member
