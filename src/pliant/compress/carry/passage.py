"""From the parameters of a model to those of its cut: which one becomes which, and what it loses."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from pliant.compress.carry.slicing import CarryError, Slices, shape_without


@dataclass(frozen=True)
class Heir:
    """What a parameter becomes.

    Args:
        name: qualified name in the smaller model.
        parameter: of the smaller model.
        slices: what it lost, or None if it is a new tensor, such as a factor of the old one.
    """

    name: str
    parameter: Tensor
    slices: Slices | None


@dataclass(frozen=True)
class Passage:
    """The parameters of two models, one cut from the other.

    Args:
        model: before the cut.
        smaller: after it.
        names: id of a parameter of the model -> its name; the first one if it is tied.
        heirs: name of a parameter of the model -> what it becomes; nothing if it is gone.
    """

    model: nn.Module
    smaller: nn.Module
    names: Mapping[int, str]
    heirs: Mapping[str, Sequence[Heir]]

    @staticmethod
    def between(model: nn.Module, smaller: nn.Module, lost: Mapping[str, Slices]) -> Passage:
        """Match the parameters of two models.

        A parameter keeps its name. Where a layer was replaced by several, their parameters descend from that of the
        layer which is called alike ("conv.weight": "conv.0.weight" and "conv.1.weight").

        Args:
            model: before the cut.
            smaller: after it.
            lost: tensor name -> slices that it lost.

        Raises:
            CarryError: if the smaller model is not the cut model, naming the first parameter that shows it.
        """
        old, new = dict(model.named_parameters()), dict(smaller.named_parameters())
        shared = {id(p) for p in old.values()} & {id(p) for p in new.values()}
        if shared:
            raise CarryError("the smaller model must be a copy as `realise` returns it; it shares tensors with the old")
        heirs: dict[str, list[Heir]] = {name: [] for name in old}
        for name, parameter in old.items():
            if name in new:
                heirs[name].append(_same(name, parameter, new[name], lost.get(name, ())))
        for name, parents in _descent(old, new).items():
            heirs[parents].append(Heir(name, new[name], None))
        moved = {name: _moved(old[name], found) for name, found in heirs.items()}
        return Passage(model, smaller, {id(p): name for name, p in old.items()}, moved)

    def of(self, parameter: Tensor) -> Sequence[Heir]:
        """Return what a parameter of the model becomes."""
        return self.heirs[self.name(parameter)]

    def name(self, parameter: Tensor) -> str:
        """Return the name of a parameter of the model."""
        return self.names[id(parameter)]


def _same(name: str, old: Tensor, new: Tensor, slices: Slices) -> Heir:
    expected = shape_without(name, old.shape, slices)
    if tuple(new.shape) != expected:
        raise CarryError(
            f"{name!r} of the smaller model must have the shape {expected} according to the cut, found "
            f"{tuple(new.shape)}: pass the model that the optimizer trains, its cut, and what `realise` made of both"
        )
    return Heir(name, new, slices)


def _descent(old: Mapping[str, Tensor], new: Mapping[str, Tensor]) -> dict[str, str]:
    """Return for every new name the name of the gone parameter whose layer it replaces."""
    gone: dict[str, list[str]] = defaultdict(list)
    for name in old:
        if name not in new:
            gone[name.rpartition(".")[0]].append(name)
    found = {}
    for name in new:
        if name not in old:
            path = name.split(".")
            owners = (".".join(path[:depth]) for depth in range(len(path) - 1, -1, -1))
            owner = next((owner for owner in owners if owner in gone), None)
            if owner is None:
                raise CarryError(f"{name!r} of the smaller model replaces no parameter of the model that was cut")
            alike = [parent for parent in gone[owner] if parent.rpartition(".")[2] == path[-1]]
            found[name] = (alike or gone[owner])[0]
    return found


def _moved(old: Tensor, heirs: list[Heir]) -> list[Heir]:
    """Take a single heir of the same shape for the parameter itself under another name: a bias that moved."""
    if len(heirs) == 1 and heirs[0].slices is None and heirs[0].parameter.shape == old.shape:
        return [Heir(heirs[0].name, heirs[0].parameter, ())]
    return heirs
