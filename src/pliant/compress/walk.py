"""Walk: a model is run from layer to layer, each of which is changed before the next one is looked at."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from pliant.compress.calibrate import STATISTICAL, measure_statistics, recompute_statistics
from pliant.compress.replay import Hook, run_until, watching
from pliant.structure.norms import Example

_MOST = 2**28  # numbers that a module writes: 1 GiB
_ALIKE = 1e-3  # relative; sums in another order differ by less

Look = Callable[[str, int, Tensor], None]  # with the name of a layer, the number of a batch and what is read or written


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
        """Call `look` with what layers write, given in the order in which they run."""

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


def walk(model: nn.Module, last: str, examples: Sequence[Example]) -> Walk:
    """Return how a model is run on batches as far as a layer: once on all of them if it can be.

    It is run on one after the other, and again for every layer, if batches are more than one tensor or of different
    shapes, if a module writes too much to be held for all samples, or if what becomes of a sample depends on what else
    is in its batch.

    Args:
        model: left as it is.
        last: the name of the layer.
        examples: what it can be called with.
    """
    tensors = [example if isinstance(example, Tensor) else _only(example) for example in examples]
    batches = [tensor for tensor in tensors if tensor is not None]
    if len(batches) < len(examples) or len({_kind(batch) for batch in batches}) > 1 or batches[0].ndim < _BATCHED:
        return OneByOne(examples)
    if not len(batches[0]) or not _is_free(model, last, batches):
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
            return lambda _, __, output: look(name, number, output)

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
    if arguments and isinstance(arguments[0], Tensor):
        visitor.read(name, number, arguments[0])


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
            def write(_: nn.Module, __: object, output: Tensor) -> None:
                for number, part in enumerate(self._parts(output)):
                    look(name, number, part)

            return write

        with watching(model, {name: hook(name) for name in names}):
            run_until(model, self.whole, list(names)[-1])

    def visit(self, model: nn.Module, names: Sequence[str], visitor: Visitor, *, stale: bool) -> bool:
        changed = [stale]

        def settle(name: str, _: nn.Module, arguments: tuple[object, ...]) -> None:
            if arguments and isinstance(arguments[0], Tensor):
                for number, part in enumerate(self._parts(arguments[0])):
                    visitor.read(name, number, part)
            changed[0] = visitor.settle(name)

        def measure(norm: nn.Module, arguments: tuple[object, ...]) -> None:
            if changed[0] and arguments and isinstance(arguments[0], Tensor):
                measure_statistics(norm, self._parts(arguments[0]))

        modules = dict(model.named_modules())
        handles = [modules[name].register_forward_pre_hook(partial(settle, name)) for name in names]
        norms = [norm for norm in modules.values() if isinstance(norm, STATISTICAL) and norm.running_mean is not None]
        handles += [norm.register_forward_pre_hook(measure) for norm in norms]
        try:
            with watching(model, {}):
                run_until(model, self.whole, names[-1])
        finally:
            for handle in handles:
                handle.remove()
        return changed[0]

    def _parts(self, values: Tensor) -> Sequence[Tensor]:
        """Return what belongs to each batch, of what a module reads or writes; all where that cannot be told."""
        each, rest = divmod(len(values), len(self.whole))
        return values.split([size * each for size in self.sizes]) if each and not rest else [values]


def _only(example: Sequence[object]) -> Tensor | None:
    return example[0] if len(example) == 1 and isinstance(example[0], Tensor) else None


def _kind(batch: Tensor) -> object:
    return (batch.shape[1:], batch.dtype, batch.device)


def _is_free(model: nn.Module, last: str, batches: Sequence[Tensor]) -> bool:
    """Tell whether what is written fits into memory and, if there are several batches, depends on its sample alone."""
    first, most = _written(model, last, batches[0])
    if most * sum(map(len, batches)) > _MOST * len(batches[0]):
        return False
    if len(batches) == 1:
        return True
    alone = [first, _written(model, last, batches[1])[0]]
    try:
        beside, _ = _written(model, last, torch.cat([*batches[:2]]))
    except RuntimeError:  # as layers raise it: the model is made for batches of one size
        return False
    found = [one for one in alone if one is not None]
    if beside is None or len(found) < len(alone) or len(beside) != sum(map(len, found)):
        return False
    parts = zip(beside.split([len(one) for one in found]), found, strict=True)
    return all(part.shape == one.shape and _are_alike(part, one) for part, one in parts)


def _are_alike(one: Tensor, other: Tensor) -> bool:
    return float((one - other).norm()) <= _ALIKE * float(other.norm())


def _written(model: nn.Module, last: str, batch: Tensor) -> tuple[Tensor | None, int]:
    """Return what the last layer writes, and how many numbers the module that writes most does."""
    found: dict[str, Tensor] = {}
    sizes = [batch.numel()]

    def look(_: nn.Module, __: object, output: object) -> None:
        if isinstance(output, Tensor):
            sizes.append(output.numel())

    def keep(_: nn.Module, __: object, output: Tensor) -> None:
        found[last] = output.float()

    hooks: dict[str, Hook] = {name: look for name, _ in model.named_modules() if name}
    with watching(model, hooks | {last: keep}):
        run_until(model, batch, last)
    return found.get(last), max(sizes)
