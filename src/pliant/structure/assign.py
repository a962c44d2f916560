"""Which parameter gets which treatment, and the groups that come of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from torch import nn

from pliant.structure.group import Group, constrained
from pliant.structure.norms import is_norm
from pliant.structure.rules import Slot
from pliant.structure.treatment import Constraint, Free, Treatment


def choice(
    layers: Mapping[str, nn.Module], kind: Constraint, norms: Treatment, rest: Treatment
) -> Callable[[Slot], Treatment]:
    """Return the choice that gives weights of layers their kind, norm layers theirs, and all others the rest."""
    modules = set(layers.values())

    def choose(slot: Slot) -> Treatment:
        if slot.module in modules and slot.local == "weight":
            return kind
        return norms if is_norm(slot.module) else rest

    return choose


def assign(slots: Sequence[Slot], choose: Callable[[Slot], Treatment]) -> list[Group]:
    """Return one group per constrained parameter, then one per kind of free ones.

    Raises:
        ValueError: naming the parameter whose treatment is none.
    """
    groups: list[Group] = []
    free: dict[Free, list[Slot]] = {}
    for slot in slots:
        treatment = choose(slot)
        if not isinstance(treatment, Treatment):
            raise ValueError(
                f"{slot.name}: the treatment must be a Constraint or Free, found {treatment!r}; "
                "Joined() is for norms= of Plan.for_filters alone"
            )
        if isinstance(treatment, Free):
            free.setdefault(treatment, []).append(slot)
        else:
            groups.append(constrained(slot, treatment))
    return groups + [Group(tuple(members), target) for target, members in free.items()]


def others(slots: Sequence[Slot], groups: Sequence[Group]) -> list[Slot]:
    """Return the parameters that are in none of some groups."""
    taken = {id(slot.parameter) for group in groups for slot in group.slots}
    return [slot for slot in slots if id(slot.parameter) not in taken]
