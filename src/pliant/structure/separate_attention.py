"""Torch's attention, whose projections are hidden in one parameter, as the linear layers that they are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from pliant.structure.attention import Attention, PrunedAttention, projections_of
from pliant.structure.unfit import has_hooks

PARTS = ("q_proj", "k_proj", "v_proj")


@final
class SeparateAttention(Attention):
    """What `nn.MultiheadAttention` computes, with its call and its results, made of four linear layers.

    State dictionaries of the module that it replaces load into it as well.

    Args:
        old: the module to replace. The output's parameters are taken over, those of the others copied.
    """

    def __init__(self, old: nn.MultiheadAttention | PrunedAttention) -> None:
        super().__init__(old)
        for name, weight, bias in zip(PARTS, *projections_of(old), strict=True):
            whole = weight if old.in_proj_weight is None else old.in_proj_weight
            own_bias = None if bias is None or old.in_proj_bias is None else _own(bias, old.in_proj_bias)
            self.add_module(name, _linear(_own(weight, whole), own_bias))
        self.out_proj = _linear(**dict(old.out_proj.named_parameters()))
        self.train(old.training)

    def project(self, query: Tensor, key: Tensor, value: Tensor) -> list[Tensor]:
        return [part(x) for part, x in zip(self._parts(), (query, key, value), strict=True)]

    @property
    def in_proj_weight(self) -> Tensor | None:
        """Return the three weights, one below the other, which `nn.TransformerEncoder` asks whether they learn."""
        weights = [part.weight for part in self._parts()]
        return torch.cat(weights) if len({w.shape[1] for w in weights}) == 1 else None

    @property
    def in_proj_bias(self) -> Tensor | None:
        """Return the three biases, one after the other."""
        biases = [part.bias for part in self._parts()]
        return None if any(bias is None for bias in biases) else torch.cat(biases)

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *rest: Any) -> None:  # noqa: ANN401  (torch's)
        for kind in ("weight", "bias"):
            packed = state_dict.pop(f"{prefix}in_proj_{kind}", None)
            for i, name in enumerate(PARTS):
                part = state_dict.pop(f"{prefix}{name}_{kind}", None) if packed is None else packed.chunk(3)[i]
                if part is not None:
                    state_dict[f"{prefix}{name}.{kind}"] = part
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def _parts(self) -> list[Any]:
        return [self.get_submodule(name) for name in PARTS]


def separate_attention(model: nn.Module) -> nn.Module:
    """Give every `nn.MultiheadAttention` of a model four linear layers that compute the same, in place.

    Torch's module keeps the projections of query, key and value in one parameter and reads the output's weight without
    a call, so that none of them is a layer that a plan can constrain and a compressor decompose. Call this before the
    plan and the optimizer are made, for the parameters are new ones. The outputs are the same up to rounding; torch's
    fused path for inference is left, padded places come out as they did. Other attention is left as it is, subclasses
    too, and a second call changes nothing.

    Args:
        model: the model; its training mode, devices, dtypes and frozen parameters stay as they are.

    Returns:
        the model itself, or what takes its place if it is an `nn.MultiheadAttention`.

    Raises:
        ValueError: before anything is changed, if an attention has hooks, parametrizations, or parameters that it
            shares with other modules, all of which would be lost.
    """
    found = {name: module for name, module in model.named_modules(remove_duplicate=False) if _is_packed(module)}
    for reason in _reasons(model, found):
        raise ValueError(reason)
    new = {id(module): SeparateAttention(module) for module in found.values()}
    for name, module in found.items():
        if not name:
            return new[id(module)]
        parent_name, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent_name), child, new[id(module)])
    return model


def _is_packed(module: nn.Module) -> bool:
    return parametrize.type_before_parametrizations(module) in {nn.MultiheadAttention, PrunedAttention}


def _reasons(model: nn.Module, found: Mapping[str, nn.Module]) -> Iterator[str]:
    """Yield why an attention cannot be exchanged without a loss."""
    owners = Counter(id(p) for module in model.modules() for p in module.parameters(recurse=False))
    for name, module in found.items():
        called = name or "the model"
        for inner in module.modules():
            if parametrize.is_parametrized(inner):
                yield f"a parameter of {called} is parametrised: call parametrize.remove_parametrizations before"
            if has_hooks(inner):
                yield f"{called} has hooks, which the layers in its place would not: register them afterwards"
            for local, parameter in inner.named_parameters(recurse=False):
                if owners[id(parameter)] > 1:
                    yield f"{called} shares its parameter {local} with another module, which a copy would not: untie it"


def _linear(weight: nn.Parameter, bias: nn.Parameter | None = None) -> nn.Linear:
    """Return a layer around these parameters; no random number is drawn for it."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    layer.weight = weight
    layer.register_parameter("bias", bias)
    return layer


def _own(part: Tensor, whole: Tensor) -> nn.Parameter:
    return nn.Parameter(part.detach().clone(), whole.requires_grad)
