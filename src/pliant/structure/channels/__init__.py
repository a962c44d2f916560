"""Channels that must be cut together, found by following the data through one run of the model."""

from pliant.structure.channels.graph import Attribute, ChannelGraph, ChannelGroup, Member, Role, removed_slices
from pliant.structure.channels.positions import Listed, Positions, Regular
from pliant.structure.channels.trace import channel_graph

__all__ = [
    "Attribute",
    "ChannelGraph",
    "ChannelGroup",
    "Listed",
    "Member",
    "Positions",
    "Regular",
    "Role",
    "channel_graph",
    "removed_slices",
]
