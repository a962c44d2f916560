"""Channel groups as plain data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pliant.compress.reading import CutError, count, items, mapping, text
from pliant.structure.channels import Attribute, ChannelGroup, Listed, Member, Positions, Regular, Role
from pliant.structure.channels.attributes import KNOWN

LARGEST = 2**24  # no dimension of a weight is longer; keeps a hostile file from asking for memory
_DEEPEST = 8  # dimensions of a tensor, nested blocks of positions
_ROLES = {role.value: role for role in Role}


def to_plain(group: ChannelGroup) -> dict[str, Any]:
    """Return the members and attributes of a group as JSON knows them."""
    return {
        "members": [
            {
                "tensor": member.tensor,
                "dim": member.dim,
                "size": member.size,
                "role": member.role.value,
                "positions": _plain_positions(member.positions),
            }
            for member in group.members
        ],
        "attributes": [{"module": a.module, "name": a.name, "per_atom": a.per_atom} for a in group.attributes],
    }


def from_plain(data: Mapping[str, Any], name: str, atoms: int) -> ChannelGroup:
    """Read a group; nothing but data is built.

    Raises:
        CutError: if the data is no group of so many atoms.
    """
    where = f"layer {name!r}"
    members = tuple(_member(value, atoms, where) for value in items(data["members"], f"{where}: members"))
    attributes = tuple(_attribute(value, where) for value in items(data["attributes"], f"{where}: attributes"))
    if len({(member.tensor, member.dim) for member in members}) < len(members):
        raise CutError(f"{where}: members must not name a dimension of a tensor twice")
    if len({(a.module, a.name) for a in attributes}) < len(attributes):
        raise CutError(f"{where}: attributes must not name a number of a module twice")
    if not any(member.role is Role.OUTPUT for member in members):
        raise CutError(f"{where}: members must hold at least one of role 'output', found none")
    return ChannelGroup(name, atoms, members, attributes)


def _plain_positions(positions: Positions) -> dict[str, Any]:
    if isinstance(positions, Regular):
        return {
            "first": positions.first,
            "count": positions.count,
            "start": positions.start,
            "step": positions.step,
            "blocks": [list(block) for block in positions.blocks],
        }
    return {"rows": [positions.of([atom]).tolist() for atom in range(1 + max(positions.covers(), default=-1))]}


_MEMBER = frozenset({"tensor", "dim", "size", "role", "positions"})
_ATTRIBUTE = frozenset({"module", "name", "per_atom"})
_REGULAR = frozenset({"first", "count", "start", "step", "blocks"})


def _member(value: object, atoms: int, where: str) -> Member:
    data = mapping(value, f"{where}: a member", _MEMBER)
    role = _ROLES.get(text(data["role"], f"{where}: role"))
    if role is None:
        raise CutError(f"{where}: role must be one of {', '.join(_ROLES)}, found {data['role']!r:.80}")
    tensor = text(data["tensor"], f"{where}: tensor")
    size = count(data["size"], f"{where}: size", low=1, high=LARGEST)
    positions = _positions(data["positions"], atoms, f"{where}: positions of {tensor!r:.80}")
    if positions.largest >= size or positions.total > size:
        raise CutError(f"{where}: positions of {tensor!r:.80} must be below {size}, found {positions.largest}")
    return Member(tensor, count(data["dim"], f"{where}: dim", high=_DEEPEST), size, positions, role)


def _positions(value: object, atoms: int, where: str) -> Positions:
    data = mapping(value, where)
    if set(data) == {"rows"}:
        rows = [items(row, where) for row in items(data["rows"], where)]
        listed = Listed(tuple(tuple(count(place, where, high=LARGEST) for place in row) for row in rows))
        places = [place for row in listed.rows for place in row]
        if len(rows) > atoms or not places or len(set(places)) < len(places):
            raise CutError(f"{where} must be different, and belong to at most {atoms} atoms")
        return listed
    mapping(data, where, _REGULAR)
    first, number, start, step = (count(data[name], where, low=low, high=LARGEST) for name, low in _LOWEST.items())
    blocks = [items(block, where) for block in items(data["blocks"], where)]
    if any(len(block) != 2 for block in blocks) or len(blocks) > _DEEPEST or first + number > atoms:
        raise CutError(f"{where} must be pairs of numbers for at most {atoms} atoms, found {data!r:.80}")
    pairs = tuple((count(n, where, low=1, high=LARGEST), count(s, where, low=1, high=LARGEST)) for n, s in blocks)
    return Regular(first, number, start, step, pairs)


_LOWEST = {"first": 0, "count": 1, "start": 0, "step": 1}


def _attribute(value: object, where: str) -> Attribute:
    data = mapping(value, f"{where}: an attribute", _ATTRIBUTE)
    name = text(data["name"], f"{where}: attribute")
    if name not in KNOWN:
        raise CutError(f"{where}: attribute must be one of {', '.join(sorted(KNOWN))}, found {name!r:.80}")
    per_atom = count(data["per_atom"], f"{where}: per_atom", low=1, high=LARGEST)
    return Attribute(text(data["module"], f"{where}: module"), name, per_atom)
