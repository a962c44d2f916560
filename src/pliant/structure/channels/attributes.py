"""Whole numbers that modules keep about heads and widths, and that a cut must write back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import takewhile

from torch import nn

from pliant.structure.channels.graph import Attribute, ChannelGroup, Member, Role


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


HEADS = _names(
    "num_heads n_heads nhead n_head heads num_attention_heads num_key_value_heads n_kv_heads num_kv_heads kv_heads "
    "num_head n_local_heads"
)
WIDTHS = _names(
    "all_head_size attn_dim val_attn_dim key_attn_dim attention_dim embed_dim split_size inner_dim hidden_size "
    "hidden_dim dim d_model n_state intermediate_size hidden_features channels num_hiddens d_inner width q_size kv_size"
)
MAKES = _names("nf out_features out_channels num_features num_channels embedding_dim num_parameters")
READS = _names("nx in_features in_channels")
KNOWN = HEADS | WIDTHS | MAKES | READS | {"num_groups", "groups"}


def attributes_of(model: nn.Module, members: Sequence[Member], atoms: int) -> tuple[Attribute, ...]:
    """Find the numbers that count the atoms of a group, or their channels, near the layers of the group.

    The layers themselves keep how many channels they make and read, unless they are torch's own, which are known; the
    modules around them keep how many heads there are and how wide they are together. A number counts if its name is
    known and its value fits.
    """
    found: dict[tuple[str, str], Attribute] = {}
    around = _around([member.layer for member in members if member.role in {Role.OUTPUT, Role.INPUT}])
    for member in members:
        width, rest = divmod(member.positions.total, atoms)
        if member.role not in {Role.OUTPUT, Role.INPUT} or len(member.positions.covers()) != atoms or rest:
            continue
        owner = model.get_submodule(member.layer)
        counts = dict(_widths(owner, MAKES if member.role is Role.OUTPUT else READS, atoms, width))
        places = [(member.layer, counts)] if not type(owner).__module__.startswith("torch.nn.modules") else []
        parent = member.layer if isinstance(owner, nn.MultiheadAttention) else member.layer.rpartition(".")[0]
        places += [(name, _counts(model.get_submodule(name), atoms, width)) for name in {parent, *_own(member, owner)}]
        places += [(around, _counts(model.get_submodule(around), atoms, width))] if around else []
        for name, numbers in places:
            for key, per_atom in numbers.items():
                found.setdefault((name, key), Attribute(name, key, per_atom))
    return tuple(found[key] for key in sorted(found))


def _own(member: Member, owner: nn.Module) -> Iterator[str]:
    """Yield the owner of a tensor itself if other layers are inside it: then it is no layer, but what is around."""
    if any(True for _ in owner.children()):
        yield member.layer


def _around(layers: Sequence[str]) -> str:
    """Return the smallest module that contains all these layers."""
    paths = [layer.split(".") for layer in layers]
    shared = list(takewhile(lambda parts: len(set(parts)) == 1, zip(*paths, strict=False)))
    return ".".join(parts[0] for parts in shared)


def _heads(module: nn.Module, atoms: int, width: int) -> Iterator[tuple[str, int]]:
    counted = _numbers(module, HEADS) if width > 1 else ()
    return ((name, value // atoms) for name, value in counted if value % atoms == 0 and value <= width * atoms)


def _counts(module: nn.Module, atoms: int, width: int) -> dict[str, int]:
    heads = dict(_heads(module, atoms, width))
    if isinstance(module, nn.MultiheadAttention | nn.Sequential):
        return heads
    return heads | dict(_widths(module, WIDTHS, atoms, width))


def _widths(module: nn.Module, names: frozenset[str], atoms: int, width: int) -> Iterator[tuple[str, int]]:
    return ((name, width) for name, value in _numbers(module, names) if value == width * atoms)


def _numbers(module: nn.Module, names: frozenset[str]) -> Iterator[tuple[str, int]]:
    for name, value in vars(module).items():
        if name in names and isinstance(value, int) and not isinstance(value, bool) and value > 0:
            yield name, value


def unambiguous(groups: Sequence[ChannelGroup]) -> list[ChannelGroup]:
    """Return the groups without widths that several of them claim: nobody knows whose they are."""
    claims = Counter((one.module, one.name) for group in groups for one in group.attributes)
    shared = {key for key, times in claims.items() if times > 1 and key[1] in WIDTHS | MAKES | READS}
    return [
        replace(group, attributes=tuple(one for one in group.attributes if (one.module, one.name) not in shared))
        for group in groups
    ]
