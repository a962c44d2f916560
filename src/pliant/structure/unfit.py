"""Models that cannot be looked at, refused by name before something odd happens."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import chain

import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.nn.parameter import is_lazy

from pliant.structure.patched import follows_copies, is_patched

Check = Callable[[nn.Module], Iterator[str]]


def refuse_unfit(model: nn.Module) -> None:
    """Refuse models that cannot be watched or copied.

    Compiled, scripted and exported code calls no hooks, so that its layers would seem unused. Parameters without a
    shape or without values, made in inference mode, or computed with gradients by a hook before the call, cannot be
    copied as they are, nor can a forward that holds on to the modules of the original.

    Args:
        model: any module.

    Raises:
        ValueError: naming the module or parameter, and what to do.
    """
    _refuse(model, _CHECKS)


def refuse_unnamed(model: nn.Module) -> None:
    """Refuse models whose parameters have no names or sizes of their own, which plans and targets are made of.

    Wrappers put a word of theirs before every name, so that neither patterns nor other plans of the model fit.

    Args:
        model: any module.

    Raises:
        ValueError: naming the module or parameter, and what to do.
    """
    _refuse(model, (_wrapped, _compiled, _shapeless))


def has_hooks(module: nn.Module) -> bool:
    """Tell whether a module has hooks of any kind, which another in its place would not have."""
    return any(held for kept, held in vars(module).items() if kept.endswith("_hooks"))


def _refuse(model: nn.Module, checks: Iterable[Check]) -> None:
    for reason in chain.from_iterable(check(model) for check in checks):
        raise ValueError(reason)


def _wrapped(model: nn.Module) -> Iterator[str]:
    for name, module in model.named_modules():
        if isinstance(module, DataParallel | DistributedDataParallel):
            kind = type(module).__name__
            yield f"{_named(name)} must not be wrapped by {kind}, which renames parameters: give the module inside"


def _compiled(model: nn.Module) -> Iterator[str]:
    for name, _ in model.named_modules():
        parent, _, child = name.rpartition(".")
        if child == "_orig_mod":
            yield (
                f"{_named(parent)} must not be wrapped by torch.compile, found {name!r}: give the module that was "
                "compiled, or compile in place with module.compile()"
            )


def _scripted(model: nn.Module) -> Iterator[str]:
    for name, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            yield (
                f"{_named(name)} must not be TorchScript: give the module that was scripted, then script the result "
                "(tensor trains can only be traced)"
            )


def _exported(model: nn.Module) -> Iterator[str]:
    for name, module in model.named_modules():
        if isinstance(module, GraphModule) and "eval" in vars(module):  # torch.export forbids the change of mode
            yield (
                f"{_named(name)} must not be what torch.export made, which has one mode and one kind of call: give the "
                "module that was exported, then export the result (pliant.export.to_torch_export)"
            )


def _held(model: nn.Module) -> Iterator[str]:
    for name, module in model.named_modules():
        if is_patched(module) and not follows_copies(vars(module)["forward"]):
            yield (
                f"the forward that was set on {_named(name)} must follow copies of the module, found a function that "
                "holds on to others, perhaps to the forward of before, whose weights no cut would reach: use a forward "
                "hook (register_forward_hook), a subclass, or types.MethodType of a function that reads all from self"
            )


def _shapeless(model: nn.Module) -> Iterator[str]:
    for name, tensor in _tensors(model):
        if is_lazy(tensor):
            yield f"{name!r} must have a shape, found a lazy parameter: call the model once on the example before"


def _meta(model: nn.Module) -> Iterator[str]:
    for name, tensor in _tensors(model):
        if tensor.is_meta:
            yield (
                f"{name!r} must have values, found it on the meta device: give the model memory by "
                "model.to_empty(device=...), and load its weights"
            )


def _from_inference(model: nn.Module) -> Iterator[str]:
    for name, tensor in _tensors(model):
        if tensor.is_inference():
            yield (
                f"{name!r} must be an ordinary tensor, found one made under torch.inference_mode(): make the model "
                "outside of it, and load its state dict"
            )


def _computed(model: nn.Module) -> Iterator[str]:
    for name, module in model.named_modules():
        for local, value in vars(module).items():
            if isinstance(value, Tensor) and not value.is_leaf:
                yield (
                    f"{_named(name)} must hold no tensor that was computed with gradients, found {local!r} (the old "
                    "torch.nn.utils.weight_norm and torch.nn.utils.prune make one): use "
                    "torch.nn.utils.parametrizations and prune.remove, or call the model under torch.no_grad() before"
                )


_CHECKS: tuple[Check, ...] = (
    _compiled,
    _scripted,
    _exported,
    _shapeless,
    _meta,
    _from_inference,
    _computed,
    _held,
)


def _tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from model.named_parameters()
    yield from model.named_buffers()


def _named(module: str) -> str:
    return repr(module) if module else "the model"
