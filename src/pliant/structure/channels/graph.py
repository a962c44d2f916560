"""The channel graph: which slices of which tensors live and die together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum

from pliant.structure.channels.positions import Positions


class Role(Enum):
    """What a slice is to its atom."""

    OUTPUT = "output"  # rows that make the channel: filters, rows of linear layers, columns of embeddings
    BIAS = "bias"
    SCALE = "scale"  # of a norm layer
    SHIFT = "shift"
    MEAN = "mean"  # running statistics
    VARIANCE = "variance"
    INPUT = "input"  # columns that read the channel
    OTHER = "other"  # learnt tokens, positions, gates, ...


@dataclass(frozen=True)
class Member:
    """One dimension of one tensor that loses slices with a group.

    Args:
        tensor: qualified name of a parameter or buffer; a tied tensor goes by the first of its names.
        dim: the dimension.
        size: of that dimension.
        positions: which of its positions belong to which atom.
        role: what they are to the atom.
    """

    tensor: str
    dim: int
    size: int
    positions: Positions
    role: Role

    @property
    def layer(self) -> str:
        """Return the name of the module that owns the tensor."""
        return self.tensor.rpartition(".")[0]


@dataclass(frozen=True)
class Attribute:
    """A whole number of a module that counts heads or channels of a group, and is written back.

    Args:
        module: qualified name.
        name: of the attribute.
        per_atom: how much it falls with every atom that is removed, at least 1.
    """

    module: str
    name: str
    per_atom: int


@dataclass(frozen=True)
class ChannelGroup:
    """Atoms of which any can be removed, as long as one stays.

    An atom is a set of slices, one or more in each member. Removing it from all members leaves what the others compute
    unchanged. Atoms that are rows of one tensor belong to one group.

    Args:
        name: the first layer that produces the channels, in the order of the model.
        atoms: how many there are, at least 2.
        members: the tensors that lose slices, those that produce the channels first.
        attributes: numbers of modules that are written back.
    """

    name: str
    atoms: int
    members: tuple[Member, ...]
    attributes: tuple[Attribute, ...] = ()

    def of(self, *roles: Role) -> list[Member]:
        """Return the members of some roles."""
        return [member for member in self.members if member.role in roles]


@dataclass(frozen=True)
class ChannelGraph:
    """All channels of a model.

    Args:
        groups: what can be cut; no two groups share an atom.
        refused: layer name -> why its channels cannot be cut.
        called: names of the modules whose forward ran on the example.
    """

    groups: tuple[ChannelGroup, ...]
    refused: Mapping[str, str] = field(default_factory=dict)
    called: frozenset[str] = frozenset()


def removed_slices(
    groups: Sequence[ChannelGroup], kept: Mapping[str, Sequence[int]]
) -> dict[str, tuple[tuple[int, tuple[int, ...]], ...]]:
    """Return what every tensor loses.

    Args:
        groups: of a channel graph.
        kept: group name -> atoms that stay.

    Returns:
        tensor name -> pairs (dimension, removed positions), dimensions and positions ascending; only tensors that lose
        something.
    """
    lost: dict[str, dict[int, set[int]]] = {}
    for group in groups:
        removed = sorted(set(range(group.atoms)) - set(kept[group.name]))
        for member in group.members if removed else ():
            positions = member.positions.of(removed).tolist()
            if positions:
                lost.setdefault(member.tensor, {}).setdefault(member.dim, set()).update(positions)
    return {
        tensor: tuple((dim, tuple(sorted(dims[dim]))) for dim in sorted(dims)) for tensor, dims in sorted(lost.items())
    }
