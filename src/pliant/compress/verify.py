"""The proof of the pudding: groups are taken only if removing some of their atoms changes nothing but the size."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from zlib import crc32

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from pliant.compress.slices import remove_slices, zero_slices
from pliant.structure.attention import slow_path
from pliant.structure.channels import ChannelGroup
from pliant.structure.channels.attributes import HEADS
from pliant.structure.copies import fresh_copy
from pliant.structure.example import Example, call, mapped
from pliant.structure.outputs import outputs_of

_TOLERANCE = 1e-7  # in float64, where a right cut agrees to 1e-12 and a wrong one not at all


class _Failure(Exception):  # noqa: N818  (control flow inside this module)
    """A cut that is not exact.

    Args:
        reason: what happened.
        modules: the modules that were running, from the outermost, if it raised.
    """

    def __init__(self, reason: str, modules: tuple[str, ...] = ()) -> None:
        super().__init__(reason)
        self.reason = reason
        self.modules = modules


def verify(
    model: nn.Module, groups: Sequence[ChannelGroup], example: Example
) -> tuple[list[ChannelGroup], dict[str, str]]:
    """Try groups out: a random half of their atoms is zeroed in one copy and removed in another.

    Both copies run in float64, in evaluation mode and in training mode, on weights that were disturbed, so that no
    zero scale hides a mistake. Groups that do not agree are found by halving, and refused.

    Args:
        model: left as it is.
        groups: of its channel graph.
        example: what it can be called with.

    Returns:
        the groups that agree, and group name -> reason for the others.
    """
    trial = _Trial(model, example)
    good, refused = _sorted_out(trial, list(groups))
    order = {group.name: index for index, group in enumerate(groups)}
    return sorted(good, key=lambda group: order[group.name]), refused


class _Trial:
    """A disturbed copy of a model, and its example, in float64 if the model allows."""

    def __init__(self, model: nn.Module, example: Example) -> None:
        wide = _disturbed(fresh_copy(model).double())
        self.example = mapped(example, _widened)
        self.tolerance = _TOLERANCE
        try:
            _run(copy.deepcopy(wide), self.example, training=False)
        except _Failure:
            wide, self.example, self.tolerance = _disturbed(fresh_copy(model)), example, 1e-3
        self.model = wide
        self.modes = [False, *(training for training in (True,) if self._repeats(training=training))]

    def _repeats(self, *, training: bool) -> bool:
        """Tell whether the model runs, and twice the same: some draw numbers that no seed of torch fixes."""
        try:
            first, second = (_run(copy.deepcopy(self.model), self.example, training=training) for _ in range(2))
            _compare(first, second, self.tolerance)
        except _Failure:
            return False
        return True

    def check(self, groups: Sequence[ChannelGroup]) -> None:
        """Raise a failure unless these groups can be cut together."""
        kept = {group.name: _half(group) for group in groups}
        zeroed, smaller = copy.deepcopy(self.model), copy.deepcopy(self.model)
        zero_slices(zeroed, groups, kept)
        zero_slices(smaller, groups, kept)
        try:
            remove_slices(smaller, groups, kept)
        except (ValueError, RuntimeError, TypeError, AttributeError) as error:
            raise _Failure(f"its layers cannot be made smaller: {_short(error)}") from error
        for training in self.modes:
            expected = _run(zeroed, self.example, training=training)
            _compare(expected, _run(smaller, self.example, training=training), self.tolerance)


def _sorted_out(trial: _Trial, groups: list[ChannelGroup]) -> tuple[list[ChannelGroup], dict[str, str]]:
    refused: dict[str, str] = {}
    while groups:
        try:
            trial.check(groups)
        except _Failure as failure:
            groups, bad = _without_offenders(trial, groups, failure)
            refused |= bad
        else:
            break
    return groups, refused


def _without_offenders(
    trial: _Trial, groups: list[ChannelGroup], failure: _Failure
) -> tuple[list[ChannelGroup], dict[str, str]]:
    """Find at least one group that fails, or mend it."""
    suspects = _suspects(groups, failure)
    while len(suspects) > 1:
        half = suspects[: len(suspects) // 2]
        try:
            trial.check(half)
        except _Failure:
            suspects = half
        else:
            suspects = suspects[len(suspects) // 2 :]
    guilty = suspects[0]
    mended, reason = _mended(trial, guilty)
    rest = [group for group in groups if group is not guilty]
    if mended is None and reason is None:  # alone it can be cut, only not with the others
        reason = f"together with others it cannot be cut: {failure.reason}"
    return (rest, {guilty.name: str(reason)}) if mended is None else ([*rest, mended], {})


def _suspects(groups: list[ChannelGroup], failure: _Failure) -> list[ChannelGroup]:
    """Return the groups around the innermost module that raised, if there are any."""
    for name in reversed(failure.modules):
        near = [g for g in groups if any(_is_inside(member.layer, name) for member in g.members)]
        if name and near:
            return near
    return groups


def _is_inside(layer: str, module: str) -> bool:
    return layer == module or layer.startswith(f"{module}.")


def _mended(trial: _Trial, group: ChannelGroup) -> tuple[ChannelGroup | None, str | None]:
    """Return the group with those of its attributes with which it works, or why there are none."""
    heads = tuple(one for one in group.attributes if one.name in HEADS)
    reason = None
    for attributes in dict.fromkeys((group.attributes, heads, ())):
        candidate = replace(group, attributes=attributes)
        try:
            trial.check([candidate])
        except _Failure as failure:
            reason = reason or failure.reason
        else:
            return (None, None) if candidate == group else (candidate, None)
    return None, reason


def _half(group: ChannelGroup) -> tuple[int, ...]:
    """Keep a random half of the atoms, one at least in every member; groups of equal size keep different ones.

    Were they cut alike, channels of two groups that depend on each other would still fit.
    """
    generator = torch.Generator().manual_seed(crc32(group.name.encode()))
    order = torch.randperm(group.atoms, generator=generator).tolist()
    kept = set(order[: max(1, group.atoms // 2)])
    return tuple(sorted(kept | needed(group, order)))


def needed(group: ChannelGroup, order: Sequence[int]) -> set[int]:
    """Return atoms of which every member of a group keeps at least one, the best first.

    Args:
        group: the group.
        order: all its atoms, the best first.
    """
    found: set[int] = set()
    for member in group.members:
        covered = set(member.positions.covers())
        if member.positions.total == member.size and not covered & found:
            found.add(next(atom for atom in order if atom in covered))
    return found


def _run(model: nn.Module, example: Example, *, training: bool) -> list[Tensor]:
    stack: list[str] = []

    def leave(*_: object) -> None:
        stack.pop()

    handles = []
    for name, module in model.named_modules():
        handles.append(module.register_forward_pre_hook(lambda *_, name=name: stack.append(name)))
        handles.append(module.register_forward_hook(leave))
    try:
        with deterministic(model, training=training), slow_path():
            return [tensor.detach().clone() for tensor, _ in outputs_of(call(model, example))]
    except Exception as error:
        raise _Failure(f"its forward computes with a fixed width: {_short(error)}", tuple(stack)) from error
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def deterministic(model: nn.Module, *, training: bool) -> Iterator[None]:
    """Run a model in a mode such that no random number depends on its widths; its mode stays as it is set here."""
    devices = {p.device.index for p in model.parameters() if p.is_cuda}
    with torch.random.fork_rng(devices=devices), torch.no_grad():
        torch.manual_seed(0)
        if not training:
            model.eval()
            yield
            return
        model.train()
        with _NoDropout():  # type: ignore[no-untyped-call]
            yield


class _NoDropout(TorchDispatchMode):
    """Coins show their expected value, so that dropout does nothing whatever the widths are."""

    def __torch_dispatch__(
        self,
        func: Any,  # noqa: ANN401  (an OpOverload)
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401  (whatever the operator returns)
        if func is torch.ops.aten.bernoulli_.float:
            return args[0].fill_(args[1] if len(args) > 1 else 0.5)
        if func is torch.ops.aten.native_dropout.default:
            return args[0].clone(), torch.ones_like(args[0], dtype=torch.bool)
        return func(*args, **(kwargs or {}))


def _compare(expected: list[Tensor], found: list[Tensor], tolerance: float) -> None:
    if [tensor.shape for tensor in expected] != [tensor.shape for tensor in found]:
        raise _Failure("its outputs change their shapes")
    for first, second in zip(expected, found, strict=True):
        largest = float(first.abs().max()) if first.numel() else 0.0
        difference = float((first.double() - second.double()).abs().max()) if first.numel() else 0.0
        if not difference <= tolerance * max(largest, 1e-30):
            raise _Failure(
                f"its forward depends on the number of channels: outputs differ by {difference:.1e} of {largest:.1e}"
            )


def _disturbed(model: nn.Module) -> nn.Module:
    """Make every parameter and statistic that is constant random, in place."""
    generator = torch.Generator().manual_seed(0)
    tensors = (*model.parameters(), *model.buffers())
    with torch.no_grad():
        for tensor in tensors:
            if tensor.is_floating_point() and tensor.numel() > 1 and bool((tensor == tensor.flatten()[0]).all()):
                noise = torch.rand(tensor.shape, generator=generator, dtype=torch.float64) * 0.5 + 0.1
                tensor.add_(noise.to(tensor))
    return model


def _widened(value: Any) -> Any:  # noqa: ANN401  (any part of an example)
    return value.double() if isinstance(value, Tensor) and value.is_floating_point() else value


def _short(error: Exception) -> str:
    text = str(error).strip().split("\n")[0]
    return f"{type(error).__name__}: {text:.160}"
