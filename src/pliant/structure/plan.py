"""Plan: every trainable parameter gets a region or is free, or the plan fails by name."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from pliant.regions.gauges import Lp, TopK
from pliant.regions.region import Region
from pliant.regions.views import Filters, Singular
from pliant.spec import from_spec, to_spec
from pliant.structure.assign import assign, choice, others
from pliant.structure.channels import ChannelGroup
from pliant.structure.channels.kinds import Layers
from pliant.structure.coupled import channel_groups, coupled_balls
from pliant.structure.example import Example
from pliant.structure.group import Group, describe, joined
from pliant.structure.norms import CHANNEL_NORMS, is_norm, norm_after
from pliant.structure.radius import InitScaled, RadiusRule
from pliant.structure.rules import Rule, Slot, filter_layers, ignored, match, matrix_layers, slots_of, weight_layers
from pliant.structure.shared import without_foreign, without_shared
from pliant.structure.treatment import Constraint, Free, Joined, Treatment

# The best settings of the first round of trials in results/fashion-mnist; the second found others as good.
RADIUS = InitScaled(30.0)
RADIUS_FOR_LOW_RANK = InitScaled(10.0)
NORMS_FOR_FILTERS = Constraint(TopK(0.05), radius=RADIUS)
NORMS_FOR_LOW_RANK = Constraint(Lp(2.0), radius=RADIUS_FOR_LOW_RANK)
NORMS_FOR_UNSTRUCTURED = Constraint(Lp(2.0), radius=InitScaled(3.0))
REST = Free(lr=0.05, momentum=0.9, weight_decay=0.0)


@dataclass(frozen=True)
class Moved:
    """A point that `make_feasible` scaled: its norm before, and the radius, which is its norm now."""

    names: tuple[str, ...]
    value: float
    radius: float


class Plan:
    """What is constrained how. Iterate over its groups, print it, or hand it to `SFW`.

    `made_feasible` tells whether `make_feasible` was called, so that `SFW` need not look at the first step.
    """

    def __init__(self, groups: Sequence[Group]) -> None:
        self.groups = tuple(groups)
        self.made_feasible = False

    @staticmethod
    def for_filters(
        model: nn.Module,
        *,
        k: float,
        radius: RadiusRule = RADIUS,
        norms: Treatment | Joined | None = None,
        rest: Treatment = REST,
        ignore: Sequence[str] = (),
        example: Example | None = None,
        coupled: bool = False,
        layers: Layers = Layers.AUTO,
    ) -> Plan:
        """Constrain filters by a group-k-support ball each, for `FilterPruning`.

        Filters are those of all convolutions; of all linear layers but the last where the model has no convolution. A
        weight that something else has too, such as an embedding or the last layer, is left to `rest`.

        With `coupled` there is one ball for each group of channels that `FilterPruning` cuts, instead of one for each
        layer: the atom is all that makes a channel (filters, biases, norm scales and shifts of every layer that must
        lose it together, each tensor in units of its initial norm), so that training shrinks exactly what the cut
        removes. What is in no such ball is left to `norms` and `rest`: layers whose channels must stay, and tensors
        that only partly belong to one group, such as a batch norm behind a concatenation.

        Args:
            model: any module; frozen parameters are left out.
            k: filters in a vertex: an int is a count, a float a fraction of the layer's (the group's) filters.
            radius: radius rule of the filters.
            norms: treatment of norm scales and shifts; `Joined()` makes them part of the filter's atom. None: small
                k-support balls for batch and instance norms, whose channels are the filters', and `rest` for others.
                With `coupled`, what it says is for norm layers in no ball; None: `rest`, but the small k-support balls
                for batch and instance norms of which a part can be cut.
            rest: treatment of all other parameters.
            ignore: patterns of layer names whose weights are left to `rest`; with `coupled`, so is all that would lose
                channels together with such a layer.
            example: what the model can be called with; needed for `Joined()` and `coupled` only.
            coupled: whether atoms are channels of all layers that lose them together.
            layers: the kinds of layers that are meant, as in `FilterPruning`; for `coupled` only.

        Raises:
            ValueError: if nothing is left to constrain, an example is missing, or options contradict each other.
        """
        slots = slots_of(model)
        kind = Constraint(TopK(k), Filters, radius)
        if coupled:
            if example is None:
                raise ValueError("coupled=True needs example=..., an input to find which layers lose channels together")
            if isinstance(norms, Joined):
                raise ValueError("coupled=True joins norm layers by itself; norms= must be a treatment of the others")
            found = channel_groups(model, example, layers=layers, ignore=ignore)
            return Plan(_coupled(slots, found, kind, norms, rest))
        if layers is not Layers.AUTO:
            raise ValueError(f"layers=... is for coupled=True, found {layers}; use ignore=... to leave layers out")
        modules = without_foreign(model, ignored(model, filter_layers(model), ignore), ignore)
        if norms is None:
            own = choice(modules, kind, NORMS_FOR_FILTERS, rest)
            return Plan(assign(slots, lambda slot: rest if _mixes_channels(slot.module) else own(slot)))
        if not isinstance(norms, Joined):
            return _preset(slots, modules, kind, norms, rest)
        if example is None:
            raise ValueError("norms=Joined() needs example=..., an input to find which norm layer follows which filter")
        atoms = joined(slots, modules, norm_after(model, example), kind)
        return Plan([*atoms, *assign(others(slots, atoms), choice({}, kind, norms.otherwise, rest))])

    @staticmethod
    def for_low_rank(
        model: nn.Module,
        *,
        k: float,
        radius: RadiusRule = RADIUS_FOR_LOW_RANK,
        norms: Treatment = NORMS_FOR_LOW_RANK,
        rest: Treatment = REST,
        ignore: Sequence[str] = (),
    ) -> Plan:
        """Constrain weights by a spectral-k-support ball each, for `LowRank`.

        Weights are those of all convolutions and of all linear layers but the last, without those of an
        `nn.MultiheadAttention`, which no cut decomposes: call `separate_attention` before for these. Layers that share
        their weights are left to `rest` likewise.

        Args:
            model: any module; frozen parameters are left out.
            k: rank of a vertex: an int is a count, a float a fraction of the full rank.
            radius: radius rule of the weights.
            norms: treatment of norm scales and shifts.
            rest: treatment of all other parameters.
            ignore: patterns of layer names whose weights are left to `rest`.

        Raises:
            ValueError: if nothing is left to constrain.
        """
        slots = slots_of(model)
        layers = without_shared(model, ignored(model, matrix_layers(model), ignore))
        return _preset(slots, layers, Constraint(TopK(k), Singular, radius), norms, rest)

    @staticmethod
    def for_unstructured(
        model: nn.Module,
        *,
        k: float,
        radius: RadiusRule = RADIUS,
        norms: Treatment = NORMS_FOR_UNSTRUCTURED,
        rest: Treatment = REST,
        ignore: Sequence[str] = (),
    ) -> Plan:
        """Constrain the entries of weights by a k-support ball each, for `UnstructuredPruning`.

        Weights are those of all convolutions and linear layers. One that is an embedding's too is left to `rest`, for
        the cut leaves it whole.

        Args:
            model: any module; frozen parameters are left out.
            k: non-zero entries in a vertex: an int is a count, a float a fraction of the layer's weights.
            radius: radius rule of the weights.
            norms: treatment of norm scales and shifts.
            rest: treatment of all other parameters.
            ignore: patterns of layer names whose weights are left to `rest`.

        Raises:
            ValueError: if nothing is left to constrain.
        """
        slots = slots_of(model)
        layers = without_foreign(model, ignored(model, weight_layers(model), ignore), ignore)
        return _preset(slots, layers, Constraint(TopK(k), radius=radius), norms, rest)

    @staticmethod
    def from_rules(model: nn.Module, rules: Sequence[Rule]) -> Plan:
        """Give every trainable parameter the treatment of the first rule that matches it.

        Raises:
            ValueError: naming the parameters that no rule matches.
        """
        slots = slots_of(model)
        treatments = dict(zip((slot.name for slot in slots), match(slots, rules), strict=True))
        return Plan(assign(slots, lambda slot: treatments[slot.name]))

    @staticmethod
    def from_json(model: nn.Module, text: str) -> Plan:
        """Rebuild a plan that `to_json` wrote, for a model with the same trainable parameters.

        Raises:
            ValueError: naming the parameters that only the model or only the plan has, or whose shape a region
                cannot hold.
        """
        slots = {slot.name: slot for slot in slots_of(model)}
        entries = json.loads(text)
        planned = [name for entry in entries for name in entry["parameters"]]
        if sorted(planned) != sorted(slots):
            odd = ", ".join(sorted(set(planned) ^ set(slots))) or "some parameter twice"
            raise ValueError(f"the plan and the model's trainable parameters differ: {odd}")
        groups = [Group(tuple(slots[n] for n in entry["parameters"]), from_spec(entry["target"])) for entry in entries]
        for group in groups:
            group.check()
        return Plan(groups)

    def to_json(self) -> str:
        """Return the plan as JSON: parameter names and the specification of each region."""
        return json.dumps([{"parameters": group.names, "target": to_spec(group.target)} for group in self], indent=1)

    def param_groups(self) -> list[dict[str, Any]]:
        """Return parameter groups for `SFW`, one per region and one per kind of free parameters."""
        return [group.options() for group in self]

    def make_feasible(self) -> list[Moved]:
        """Scale the weights into their regions, in place, and return what was scaled."""
        moved = []
        for group in self:
            value = group.scale_into()
            if value is not None and isinstance(group.target, Region):
                moved.append(Moved(group.names, value, group.target.radius))
        self.made_feasible = True
        return moved

    @torch.no_grad()
    def scale_weights(self, factor: float) -> None:
        """Multiply all constrained weights by a factor, in place; free ones stay as they are.

        What is left of the initial weights at the end of a run hides the structure that the vertices build. Starting
        from smaller weights leaves less of them, without a larger shrinkage.

        Args:
            factor: in (0, 1].

        Raises:
            ValueError: if it is not.
        """
        if not 0.0 < factor <= 1.0:
            raise ValueError(f"factor must be in (0, 1], found {factor!r}")
        for group in self:
            if isinstance(group.target, Region):
                for slot in group.slots:
                    slot.parameter.mul_(factor)

    def __iter__(self) -> Iterator[Group]:
        return iter(self.groups)

    def __len__(self) -> int:
        return len(self.groups)

    def __str__(self) -> str:
        head = ("parameter", "shape", "region", "k", "radius", "diameter")
        rows = [head, *(row for group in self for row in describe(group))]
        widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
        lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows]
        return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]])

    def __repr__(self) -> str:
        return f"Plan of {len(self)} groups\n{self}"


def _preset(
    slots: Sequence[Slot], layers: dict[str, nn.Module], kind: Constraint, norms: Treatment, rest: Treatment
) -> Plan:
    return Plan(assign(slots, choice(layers, kind, norms, rest)))


def _coupled(
    slots: Sequence[Slot], channels: Sequence[ChannelGroup], kind: Constraint, norms: Treatment | None, rest: Treatment
) -> list[Group]:
    balls = coupled_balls(slots, channels, kind)
    if not balls:
        raise ValueError("no layer is left to constrain: no trainable weight makes the channels of one group alone")
    left = others(slots, balls)
    if norms is not None:
        return [*balls, *assign(left, choice({}, kind, norms, rest))]
    cut = {member.tensor for group in channels for member in group.members}

    def choose(slot: Slot) -> Treatment:
        return NORMS_FOR_FILTERS if slot.name in cut and isinstance(slot.module, CHANNEL_NORMS) else rest

    return [*balls, *assign(left, choose)]


def _mixes_channels(module: nn.Module) -> bool:
    return is_norm(module) and not isinstance(module, CHANNEL_NORMS)
