"""Which parameters there are, which layers carry them, and rules that give each a treatment."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch import nn

from pliant.structure.computed import is_computed
from pliant.structure.matricise import is_convolution, is_layer, is_linear
from pliant.structure.patterns import check_ignore, ignored_by, warn_of_unmatched
from pliant.structure.treatment import Treatment
from pliant.structure.unfit import refuse_unnamed


@dataclass(frozen=True)
class Slot:
    """One trainable parameter and where it lives."""

    name: str
    module: nn.Module
    local: str
    parameter: nn.Parameter


@dataclass(frozen=True)
class Rule:
    """Parameters that match all conditions get the treatment.

    Args:
        treat: a `Constraint` or `Free`.
        name: pattern on the qualified parameter name, as of `fnmatch` ("layer?.*.weight").
        modules: types of the owning module; empty: any.
        local: pattern on the parameter's name inside its module ("weight").
    """

    treat: Treatment
    name: str = "*"
    modules: tuple[type[nn.Module], ...] = ()
    local: str = "*"

    def matches(self, slot: Slot) -> bool:
        """Tell whether a parameter falls under this rule."""
        owner = not self.modules or isinstance(slot.module, self.modules)
        return owner and fnmatchcase(slot.name, self.name) and fnmatchcase(slot.local, self.local)


def slots_of(model: nn.Module) -> list[Slot]:
    """Return every trainable parameter once, tied ones under their first name; frozen ones are left out.

    Raises:
        ValueError: if the model has no trainable parameter, is wrapped, or has lazy parameters (`refuse_unnamed`).
    """
    refuse_unnamed(model)
    seen: set[int] = set()
    slots = []
    for prefix, module in model.named_modules():
        for local, parameter in module.named_parameters(recurse=False):
            if id(parameter) in seen or not parameter.requires_grad:
                continue
            seen.add(id(parameter))
            slots.append(Slot(f"{prefix}.{local}" if prefix else local, module, local, parameter))
    if not slots:
        raise ValueError("the model has no trainable parameter: every one has requires_grad=False, or there is none")
    return slots


def match(slots: Sequence[Slot], rules: Sequence[Rule]) -> list[Treatment]:
    """Return the treatment of every parameter.

    Raises:
        ValueError: if a parameter matches no rule; the message names all such parameters.
    """
    found = [next((rule.treat for rule in rules if rule.matches(slot)), None) for slot in slots]
    missing = [slot.name for slot, treat in zip(slots, found, strict=True) if treat is None]
    if missing:
        raise ValueError(
            f"no rule matches {', '.join(missing)}; add rules for them, or end with Rule(Free()) for all others"
        )
    return [treat for treat in found if treat is not None]


def filter_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Return the layers whose output channels a plan for filters constrains, by name.

    All convolutions; where there is none, all linear layers but the last, which emits the classes.
    """
    layers = _layers(model, is_convolution)
    return layers or _without_last(_layers(model, is_linear))


def matrix_layers(model: nn.Module, *, last: bool = False) -> dict[str, nn.Module]:
    """Return the convolutions and linear layers that can be decomposed, without the last linear one unless `last`.

    The output layer of an `nn.MultiheadAttention` is none of them: its weight is read without a call.
    """
    layers = {
        name: layer
        for name, layer in weight_layers(model).items()
        if not isinstance(model.get_submodule(name.rpartition(".")[0]), nn.MultiheadAttention)
    }
    linear = [name for name, layer in layers.items() if is_linear(layer)]
    return layers if last or not linear else {name: layer for name, layer in layers.items() if name != linear[-1]}


def weight_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Return all convolutions and linear layers by name."""
    return _layers(model, is_layer)


def ignored(model: nn.Module, layers: Mapping[str, nn.Module], patterns: Sequence[str]) -> dict[str, nn.Module]:
    """Return the layers of a model whose names match no pattern and whose weight is trainable.

    Raises:
        ValueError: if none is left, a weight is no parameter but computed from others, or patterns are one string.
    """
    check_ignore(patterns)
    warn_of_unmatched(model, patterns)
    left = {name: layer for name, layer in layers.items() if ignored_by(patterns, name, f"{name}.weight") is None}
    computed = [name for name, layer in left.items() if is_computed(layer)]
    if computed:
        raise ValueError(
            f"the weight of {', '.join(computed)} is computed, by a parametrization such as weight norm or by "
            "torch.nn.utils.prune, and no parameter of its own: remove that (parametrize.remove_parametrizations, "
            "prune.remove), or name these layers in ignore"
        )
    left = {name: layer for name, layer in left.items() if layer.get_parameter("weight").requires_grad}
    if not left:
        raise ValueError(
            f"no layer is left to constrain: the model has {', '.join(layers) or 'no fitting layer'}, "
            f"ignore is {list(patterns)}, and frozen weights do not count"
        )
    return left


def _layers(model: nn.Module, is_kind: Callable[[nn.Module], bool]) -> dict[str, nn.Module]:
    return {
        name: module
        for name, module in model.named_modules()
        if is_kind(module) and ("weight" in module._parameters or is_computed(module))  # noqa: SLF001
    }


def _without_last(layers: dict[str, nn.Module]) -> dict[str, nn.Module]:
    return dict(list(layers.items())[:-1])
