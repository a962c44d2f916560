"""Which groups of channels are meant: those of convolutions, of linear layers, or all, without those of some layers."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import Enum

from torch import nn

from pliant.spec import register
from pliant.structure.channels.graph import ChannelGroup, Role
from pliant.structure.patterns import ignored_by, warn_of_unmatched


@register
class Layers(Enum):
    """Which kinds of layers are cut; output layers never are."""

    AUTO = "auto"  # the convolutions; in a model without any, the linear layers
    CONVOLUTIONS = "convolutions"  # transposed ones too
    LINEARS = "linears"
    ALL = "all"


@dataclass(frozen=True)
class Choice:
    """The groups that are asked for, and the others.

    Args:
        kinds: that are asked for; None stands for tables alone.
        groups: that are meant.
        aside: the other groups, each with the reason why its channels stay.
    """

    kinds: Collection[Layers | None]
    groups: Sequence[ChannelGroup]
    aside: Sequence[tuple[ChannelGroup, str]]


def choose_groups(model: nn.Module, groups: Sequence[ChannelGroup], *, kind: Layers, ignore: Sequence[str]) -> Choice:
    """Sort the groups of a channel graph.

    Args:
        model: the model.
        groups: all of its graph.
        kind: the kinds of layers to cut.
        ignore: patterns of names of layers or tensors that stay whole; those that only read the channels do not count.
    """
    warn_of_unmatched(model, ignore)
    kinds = [_kind_of(model, group) for group in groups]
    asked = _asked(kind, set(kinds))
    reasons = [_unwanted(group, one, asked, ignore) for group, one in zip(groups, kinds, strict=True)]
    pairs = list(zip(groups, reasons, strict=True))
    aside = [(group, reason) for group, reason in pairs if reason is not None]
    return Choice(asked, [group for group, reason in pairs if reason is None], aside)


def _kind_of(model: nn.Module, group: ChannelGroup) -> Layers | None:
    """Return CONVOLUTIONS if one of them makes the channels, LINEARS for matrices, None for tables alone."""
    makers = group.of(Role.OUTPUT)
    tensors = dict((*model.named_parameters(), *model.named_buffers()))
    if any(tensors[member.tensor].ndim > 2 for member in makers):
        return Layers.CONVOLUTIONS
    tables = [isinstance(model.get_submodule(member.layer), nn.Embedding | nn.EmbeddingBag) for member in makers]
    return None if all(tables) else Layers.LINEARS


def _asked(kind: Layers, found: set[Layers | None]) -> set[Layers | None]:
    if kind is Layers.ALL:
        return {Layers.CONVOLUTIONS, Layers.LINEARS, None}
    if kind is not Layers.AUTO:
        return {kind}
    return {Layers.CONVOLUTIONS if Layers.CONVOLUTIONS in found else Layers.LINEARS}


def _unwanted(group: ChannelGroup, kind: Layers | None, kinds: set[Layers | None], ignore: Sequence[str]) -> str | None:
    for member in group.members:
        if member.role is Role.INPUT:
            continue
        pattern = ignored_by(ignore, member.layer, member.tensor)
        if pattern is not None:
            return f"{member.layer!r} matches the ignore pattern {pattern!r}"
    if kind not in kinds:
        return f"{'a table' if kind is None else kind.name.lower()} not among the layers asked for"
    return None
