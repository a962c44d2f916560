"""Walk: a model is run from layer to layer, each of which is changed before the next one is looked at."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import zip_longest

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from pliant.compress.calibrate import has_statistics, measure_statistics, recompute_statistics
from pliant.compress.replay import Hook, run_until, watching
from pliant.structure.example import Example

_MOST = 2**28  # numbers in a tensor: 1 GiB
_ALIKE = 1e-3  # relative; sums in another order differ by less

# With the name of a layer, the number of a batch, what is read (None if that is no positional tensor) and written.
Look = Callable[[str, int, Tensor | None, Tensor], None]


class _ChangedError(Exception):
    """A layer was changed, the first one."""


class Visitor(ABC):
    """What is done to the layers of a model."""

    @abstractmethod
    def read(self, name: str, number: int, inputs: Tensor) -> None:
        """See what a layer reads of one batch."""

    @abstractmethod
    def settle(self, name: str) -> bool:
        """Change a layer, all of whose inputs were seen; return whether something was changed so far."""


class Walk(ABC):
    """Runs a model on batches."""

    @abstractmethod
    def watch(self, model: nn.Module, names: Collection[str], look: Look) -> None:
        """Call `look` with what layers read and write, given in the order in which they run."""

    @abstractmethod
    def visit(self, model: nn.Module, names: Sequence[str], visitor: Visitor, *, stale: bool) -> bool:
        """Show a visitor layer after layer, in the order in which they run; each reads what the changed ones write.

        Norm layers on the way get the running statistics of what they read, once something has been changed.

        Args:
            model: changed in place.
            names: of the layers.
            visitor: what is done to them.
            stale: whether something was changed before.

        Returns:
            whether something has been changed.
        """


def walk(model: nn.Module, names: Sequence[str], examples: Sequence[Example]) -> Walk:
    """Return how a model is run on batches to visit layers: on all of them at once if it can be.

    It is run on one after the other, and again for every layer, if batches are more than one tensor or of different
    shapes, if a tensor on the way would be too large for all samples, if what becomes of a sample depends on what else
    is in its batch, or a norm layer with running statistics is called more than once.

    Args:
        model: left as it is.
        names: of the layers, in the order in which they run.
        examples: what it can be called with.
    """
    tensors = [_only(example) for example in examples]
    batches = [tensor for tensor in tensors if tensor is not None]
    if len(batches) < len(examples) or len({_kind(batch) for batch in batches}) > 1 or batches[0].ndim < _BATCHED:
        return OneByOne(examples)
    if not len(batches[0]) or not _is_free(model, names, batches):
        return OneByOne(examples)
    return AllAtOnce(torch.cat(batches), [len(batch) for batch in batches])


_BATCHED = 2  # dimensions, at least


@dataclass(frozen=True, eq=False)
class OneByOne(Walk):
    """One batch after the other, from the beginning for every layer.

    Args:
        examples: what the model can be called with.
    """

    examples: Sequence[Example]

    def watch(self, model: nn.Module, names: Collection[str], look: Look) -> None:
        def hook(name: str) -> Hook:
            return lambda _, arguments, output: look(name, number, _first(arguments), output)

        with watching(model, {name: hook(name) for name in names}):
            for number, example in enumerate(self.examples):  # noqa: B007  (the hooks read the number)
                run_until(model, example, list(names)[-1])

    def visit(self, model: nn.Module, names: Sequence[str], visitor: Visitor, *, stale: bool) -> bool:
        for name in names:
            if stale:
                recompute_statistics(model, self.examples, partial(run_until, last=name))
            for number, example in enumerate(self.examples):
                with watching(model, {name: partial(_show, visitor, name, number)}):
                    run_until(model, example, name)
            stale = visitor.settle(name)
        return stale


def _show(visitor: Visitor, name: str, number: int, _: nn.Module, arguments: tuple[object, ...], __: object) -> None:
    inputs = _first(arguments)
    if inputs is not None:
        visitor.read(name, number, inputs)


def _first(arguments: tuple[object, ...]) -> Tensor | None:
    """Return what a module is called with, if that is a tensor."""
    return arguments[0] if arguments and isinstance(arguments[0], Tensor) else None


@dataclass(frozen=True, eq=False)
class AllAtOnce(Walk):
    """One run for all layers: each is changed as soon as it is called, before it writes.

    Args:
        whole: the samples of all batches.
        sizes: how many samples each batch had.
    """

    whole: Tensor
    sizes: Sequence[int]

    def watch(self, model: nn.Module, names: Collection[str], look: Look) -> None:
        def hook(name: str) -> Hook:
            def both(_: nn.Module, arguments: tuple[object, ...], output: Tensor) -> None:
                inputs = _first(arguments)
                read = () if inputs is None else self._parts(inputs)
                for number, (part, written) in enumerate(zip_longest(read, self._parts(output))):
                    if written is not None:
                        look(name, number, part, written)

            return both

        with watching(model, {name: hook(name) for name in names}):
            run_until(model, self.whole, list(names)[-1])

    def visit(self, model: nn.Module, names: Sequence[str], visitor: Visitor, *, stale: bool) -> bool:
        left = list(names)
        while left:
            stale = self._pass(model, left, visitor, stale=stale)
        return stale

    def _pass(self, model: nn.Module, left: list[str], visitor: Visitor, *, stale: bool) -> bool:
        """Run the model once, taking layers off the list: all of them, or those as far as the first that is changed.

        From the beginning again after that: the norms before it have to be measured too.
        """

        def settle(name: str, _: nn.Module, arguments: tuple[object, ...]) -> None:
            inputs = _first(arguments)
            for number, part in enumerate(() if inputs is None else self._parts(inputs)):
                visitor.read(name, number, part)
            left.remove(name)
            if visitor.settle(name) and not stale:
                raise _ChangedError

        def measure(name: str, norm: nn.Module, arguments: tuple[object, ...]) -> None:
            inputs = _first(arguments)
            if stale and inputs is not None:
                measure_statistics(norm, name, self._parts(inputs))

        modules = dict(model.named_modules())
        last = left[-1]
        with ExitStack() as stack:
            for name in left:
                stack.callback(modules[name].register_forward_pre_hook(partial(settle, name)).remove)
            for name in (name for name, module in modules.items() if has_statistics(module)):
                stack.callback(modules[name].register_forward_pre_hook(partial(measure, name)).remove)
            stack.enter_context(watching(model, {}))
            try:
                run_until(model, self.whole, last)
            except _ChangedError:
                return True
        left.clear()
        return stale

    def _parts(self, values: Tensor) -> Sequence[Tensor]:
        """Return what belongs to each batch, of what a module reads or writes; all where that cannot be told."""
        each, rest = divmod(len(values), len(self.whole))
        return values.split([size * each for size in self.sizes]) if each and not rest else [values]


def _only(example: Example) -> Tensor | None:
    """Return the tensor that a model is called with, if it is called with one alone, by position."""
    if isinstance(example, Mapping):
        return None
    alone = [example] if isinstance(example, Tensor) else example
    return alone[0] if len(alone) == 1 and isinstance(alone[0], Tensor) else None


def _kind(batch: Tensor) -> object:
    return (batch.shape[1:], batch.dtype, batch.device)


def _is_free(model: nn.Module, names: Sequence[str], batches: Sequence[Tensor]) -> bool:
    """Tell whether all batches fit into memory and, if there are several, are treated as one as each is alone."""
    first = _probe(model, names, batches[0])
    if first.largest * sum(map(len, batches)) > _MOST * len(batches[0]) or first.repeated:
        return False
    if len(batches) == 1:
        return True
    second = _probe(model, names, batches[1])
    try:
        beside = _probe(model, names, torch.cat([*batches[:2]]))
    except Exception:  # noqa: BLE001  (each batch alone has just run: the model is made for batches of one size)
        return False
    return all(_are_alike(one, first.traces.get(n), second.traces.get(n)) for n, one in beside.traces.items())


def _are_alike(both: Tensor, *alone: Tensor | None) -> bool:
    found = [one for one in alone if one is not None]
    if len(found) < len(alone) or len(both) != sum(map(len, found)):
        return False
    expected = torch.cat(found)
    return float((both - expected).norm()) <= _ALIKE * float(expected.norm())


@dataclass(eq=False)
class _Probe:
    """What a run on one batch showed.

    Args:
        largest: numbers in the largest tensor on the way.
        traces: layer name -> two numbers for each of its samples, from which it can be told.
        repeated: whether a norm layer with running statistics was called more than once.
    """

    largest: int
    traces: dict[str, Tensor]
    repeated: bool


def _probe(model: nn.Module, names: Sequence[str], batch: Tensor) -> _Probe:
    traces: dict[str, Tensor] = {}
    calls: Counter[nn.Module] = Counter()
    sizes = _Sizes(batch.numel())

    def trace(name: str, _: nn.Module, __: object, output: Tensor) -> None:
        rows = output.double().reshape(len(output), -1) if output.ndim else output.double().view(1, 1)
        traces[name] = torch.stack([rows.norm(dim=1), (rows * _ramp(rows)).sum(1)], dim=1)

    def count(norm: nn.Module, _: object, __: object) -> None:
        calls[norm] += 1

    norms = {name: count for name, module in model.named_modules() if name and has_statistics(module)}
    with watching(model, norms | {name: partial(trace, name) for name in names}), sizes:
        run_until(model, batch, names[-1])
    return _Probe(sizes.largest, traces, repeated=any(times > 1 for times in calls.values()))


def _ramp(rows: Tensor) -> Tensor:
    return torch.linspace(-1.0, 1.0, rows.shape[1], dtype=rows.dtype, device=rows.device)


class _Sizes(TorchDispatchMode):
    """Notes the size of the largest tensor that an operator returns."""

    def __init__(self, largest: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.largest = largest

    def __torch_dispatch__(
        self, func: Callable[..., object], types: object, args: tuple[object, ...] = (), kwargs: object = None
    ) -> object:
        found = func(*args, **(kwargs or {}))  # type: ignore[arg-type]
        for one in found if isinstance(found, tuple | list) else (found,):
            if isinstance(one, Tensor):
                self.largest = max(self.largest, one.numel())
        return found
