"""Replay: run a model up to a layer, as often as its layers are repaired one after the other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress

import torch
from torch import Tensor, nn

from pliant.structure.attention import slow_path
from pliant.structure.example import Example, call
from pliant.structure.matricise import is_plain_layer
from pliant.structure.patched import is_patched
from pliant.structure.untouched import untouched

Hook = Callable[[nn.Module, tuple[object, ...], Tensor], None]


def batches_of(batches: Iterable[Example]) -> list[Example]:
    """Return all batches.

    Raises:
        ValueError: if there is none.
    """
    found = list(batches)
    if not found:
        raise ValueError("batches must yield at least one batch, found none (a generator can be used only once)")
    return found


def layers_in_order(model: nn.Module, example: Example) -> list[str]:
    """Return the layers that can be repaired, in the order in which they run.

    Those are convolutions and linear layers that are called once, whose weights are no other module's, and whose
    forward is that of their class.
    """
    names = {module: name for name, module in model.named_modules()}
    owners = Counter(id(parameter) for module in names for parameter in module.parameters(recurse=False))
    own = {
        name: module
        for module, name in names.items()
        if is_plain_layer(module)
        and not is_patched(module)
        and all(owners[id(parameter)] == 1 for parameter in module.parameters(recurse=False))
    }
    called: list[str] = []
    with watching(model, {name: lambda m, _, __: called.append(names[m]) for name in own}):
        call(model, example)
    return [name for name in called if called.count(name) == 1]


@contextmanager
def watching(model: nn.Module, hooks: Mapping[str, Hook]) -> Iterator[None]:
    """Call these with (layer, arguments, output) whenever their layers have run, in evaluation without gradients.

    What the model writes down meanwhile, it forgets again (`untouched`).

    The output is the layer's own, before other hooks change it.
    """
    with ExitStack() as stack:
        for name, hook in hooks.items():
            stack.callback(model.get_submodule(name).register_forward_hook(hook, prepend=True).remove)
        stack.enter_context(untouched(model))
        stack.enter_context(torch.no_grad())
        stack.enter_context(slow_path())
        yield


class _ReachedError(Exception):
    """The last layer that is looked at has run: the rest of the model need not."""


def run_until(model: nn.Module, batch: Example, last: str) -> None:
    """Run the model on a batch as far as a layer, whose hooks are called."""
    handle = model.get_submodule(last).register_forward_hook(_stop)
    try:
        with suppress(_ReachedError):
            call(model, batch)
    finally:
        handle.remove()


def _stop(_: nn.Module, __: object, ___: object) -> None:
    raise _ReachedError


@contextmanager
def labels_hint() -> Iterator[None]:
    """Tell, if a model cannot be called with a batch, what to do with batches that hold labels."""
    try:
        yield
    except TypeError as error:
        error.add_note("batches of (inputs, labels) go in as pliant.compress.Inputs(batches)")
        raise


def check_same(model: nn.Module, reference: nn.Module) -> None:
    """Check that one model is the other with some of its atoms at zero.

    Raises:
        ValueError: if the parameters have other names or shapes.
    """
    ours, theirs = ({n: p.shape for n, p in m.named_parameters()} for m in (model, reference))
    for name in sorted(ours.keys() | theirs.keys()):
        if ours.get(name) != theirs.get(name):
            raise ValueError(
                f"model must be truncated, with the reference's parameters and shapes; {name!r} differs: found "
                f"{ours.get(name)}, in the reference {theirs.get(name)}. Repair what truncate returns, then realise it"
            )


def check_reached(names: Sequence[str], counts: Mapping[str, int]) -> None:
    """Check that every layer has seen something.

    Raises:
        ValueError: if one has not.
    """
    for name in names:
        if not counts[name]:
            raise ValueError(f"layer {name!r} must run in both models, found one that does not reach it")
