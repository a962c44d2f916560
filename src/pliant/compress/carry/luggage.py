"""What an optimizer takes along into the smaller model: parameters, groups and state."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from pliant.compress.carry.passage import Passage
from pliant.compress.carry.regions import Change, axes_change, narrowed, narrowed_penalty
from pliant.compress.carry.slicing import CarryError, Slices
from pliant.compress.carry.state import Carrier, holds
from pliant.optim.proximal import Regulariser
from pliant.regions import Region


@dataclass(frozen=True)
class CarryReport:
    """What became of the parameters that an optimizer trains.

    Args:
        carried: those that kept their shape, with all their state.
        sliced: those that lost slices, and their state with them.
        fresh: those of the smaller model that start without state: factors that replace a weight, and what
            `strict=False` gave up.
        dropped: state that stayed behind, as "parameter: key", and parameters that are gone.
    """

    carried: tuple[str, ...]
    sliced: tuple[str, ...]
    fresh: tuple[str, ...]
    dropped: tuple[str, ...]


@dataclass
class Luggage:
    """For each group the entries that change, the state of the new parameters, and the lists of the report."""

    groups: list[dict[str, Any]] = field(default_factory=list)
    state: defaultdict[Any, Any] = field(default_factory=lambda: defaultdict(dict))
    carried: list[str] = field(default_factory=list)
    sliced: list[str] = field(default_factory=list)
    fresh: list[str] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)

    def report(self) -> CarryReport:
        """Return the report."""
        return CarryReport(tuple(self.carried), tuple(self.sliced), tuple(self.fresh), tuple(self.dropped))


def pack(
    optimizer: Optimizer, model: nn.Module, smaller: nn.Module, lost: Mapping[str, Slices], *, strict: bool
) -> Luggage:
    """Return what an optimizer takes along; nothing is changed.

    Args:
        optimizer: of the model.
        model: before the cut.
        smaller: after it.
        lost: tensor name -> slices that it lost.
        strict: whether state that cannot be carried is an error.

    Raises:
        CarryError: naming the optimizer, parameter or state that cannot follow.
    """
    _check(optimizer, model)
    packer = _Packer(Passage.between(model, smaller, lost), Carrier(optimizer, strict))
    for group in optimizer.param_groups:
        packer.take_group(group)
    return packer.luggage


@dataclass(frozen=True)
class _Packer:
    passage: Passage
    carrier: Carrier
    luggage: Luggage = field(default_factory=Luggage)

    def take_group(self, group: Mapping[str, Any]) -> None:
        params, region, penalties = group["params"], _region(group), _penalties(group)
        arity = next((held.arity for held in (region, *(p.view for p in penalties)) if held is not None), 1)
        points = [params[start : start + arity] for start in range(0, len(params), arity)]
        changed = self._entries(group)
        if region is not None:
            changed["region"] = narrowed(region, self._changes(points, _IN_REGION))
        if penalties:
            changes = self._changes(points, _PENALISED)
            changed["penalties"] = tuple(narrowed_penalty(penalty, changes) for penalty in penalties)
        self.luggage.groups.append(changed)
        for point in points:
            whole = not any(heir.slices for parameter in point for heir in self.passage.of(parameter))
            for parameter in point:
                self._take(parameter, group, whole=whole)

    def _entries(self, group: Mapping[str, Any]) -> dict[str, Any]:
        """Return the parameters of a group after the cut, and their names if it has them."""
        heirs = [self.passage.of(parameter) for parameter in group["params"]]
        changed: dict[str, Any] = {"params": [heir.parameter for found in heirs for heir in found]}
        if "param_names" in group:
            names = [self.passage.name(parameter) for parameter in group["params"]]
            changed["param_names"] = [
                given if heir.name == name else heir.name
                for given, name, found in zip(group["param_names"], names, heirs, strict=True)
                for heir in found
            ]
        return changed

    def _take(self, parameter: Tensor, group: Mapping[str, Any], *, whole: bool) -> None:
        """Take what the optimizer knows of a parameter."""
        name, heirs = self.passage.name(parameter), self.passage.of(parameter)
        for heir in heirs:
            state = None
            if heir.slices is not None:
                state, dropped = self.carrier.carry(name, parameter, heir, whole=whole)
                self.luggage.dropped.extend(f"{name}: {key}" for key in dropped)
            kind = self.luggage.fresh if state is None else self.luggage.sliced if heir.slices else self.luggage.carried
            kind.append(heir.name)
            started = self.carrier.start(group, heir.parameter) if state is None else state
            if started:  # some optimizers take an empty entry for one that they have started
                self.luggage.state[heir.parameter] = started
        if all(heir.slices is None for heir in heirs):
            self.luggage.dropped.append(name)

    def _changes(self, points: Sequence[Sequence[Tensor]], role: _Role) -> list[list[Change]]:
        return [[self._change(parameter, role) for parameter in point] for point in points]

    def _change(self, parameter: Tensor, role: _Role) -> Change:
        name, heirs = self.passage.name(parameter), self.passage.of(parameter)
        if not heirs or heirs[0].slices is None:
            found = ", ".join(repr(heir.name) for heir in heirs) or "nothing"
            raise CarryError(
                f"{name!r} {role.what}, and the cut puts {found} in its place; build a new optimizer for the smaller "
                f"model, or {role.way_out}"
            )
        (owner, _, local), (successor, _, _) = name.rpartition("."), heirs[0].name.rpartition(".")
        modules = self.passage.model.get_submodule(owner), self.passage.smaller.get_submodule(successor)
        before, after = tuple(parameter.shape), tuple(heirs[0].parameter.shape)
        return Change(name, before, after, axes_change(*modules, local), heirs[0].slices)


@dataclass(frozen=True)
class _Role:
    """What a parameter is to its group, and how to give that up."""

    what: str
    way_out: str


_IN_REGION = _Role(
    "is (part of) a point of a region", "free the group before: region None and an lr for plain SGD steps"
)
_PENALISED = _Role("has penalties", 'empty the group before: group["penalties"] = ()')


def _region(group: Mapping[str, Any]) -> Region | None:
    region = group.get("region")
    return region if isinstance(region, Region) else None


def _penalties(group: Mapping[str, Any]) -> tuple[Regulariser, ...]:
    """Return the penalties of a group; what other optimizers mean by the word is none of them."""
    found = group.get("penalties")
    if not isinstance(found, Sequence) or not all(isinstance(penalty, Regulariser) for penalty in found):
        return ()
    return tuple(found)


def _check(optimizer: Optimizer, model: nn.Module) -> None:
    own, kind = vars(optimizer), type(optimizer).__name__
    if not {"param_groups", "state", "defaults"} <= own.keys():
        raise CarryError(f"{kind} is a wrapper without groups of its own; pass the optimizer inside it")
    for key, value in own.items():
        if isinstance(value, Optimizer):
            raise CarryError(
                f"{kind} goes around the {type(value).__name__} in its attribute {key!r}, and what else it holds is of "
                f"the old model; pass that one, and put a new {kind} around it, made for the smaller model"
            )
    known = {id(parameter) for parameter in model.parameters()}
    for number, group in enumerate(optimizer.param_groups):
        _check_known(group, known, f"group {number} of {kind}")
    for key, value in own.items():
        if key not in {"param_groups", "state"} and holds(value, known):
            raise CarryError(
                f"{kind} keeps parameters in its attribute {key!r} too, which would stay with the old model"
            )
    owners: list[object] = list(optimizer.state)
    for owner in owners:
        if not isinstance(owner, Tensor):
            raise CarryError(f"{kind} keeps state under {owner!r}, which belongs to no parameter")


def _check_known(group: Mapping[str, Any], known: set[int], where: str) -> None:
    for place, parameter in enumerate(group["params"]):
        if id(parameter) not in known:
            name = group["param_names"][place] if "param_names" in group else f"of shape {tuple(parameter.shape)}"
            raise CarryError(
                f"{where} trains a parameter {name} which is not the model's; pass the very model that it trains (and "
                "in a wrapper, the module inside)"
            )
