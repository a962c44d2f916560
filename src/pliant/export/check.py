"""What an exported file is compared with: the model's own outputs, on the example and on another batch size."""

from __future__ import annotations

import inspect
import math
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim
from torch.utils import _pytree as pytree

from pliant.structure.attention import slow_path
from pliant.structure.example import Example, batch_size, call, is_batched, resized
from pliant.structure.unfit import refuse_unfit
from pliant.structure.untouched import untouched


class ExportError(ValueError):
    """A model that cannot be exported, or whose exported form does something else."""


class MissingExportExtraError(ImportError):
    """A package that this export needs is not installed."""


@dataclass(frozen=True)
class ExportCheck:
    """An exported file that was loaded again and gave the model's outputs.

    Args:
        path: of the file.
        bytes: of the file, and of the file of weights beside it where there is one.
        batches: the batch sizes that were compared; more than one where the batch is dynamic.
        max_difference: largest absolute difference between the model's outputs and the file's.
        relative_difference: the same divided by the largest absolute output.
    """

    path: Path
    bytes: int
    batches: tuple[int, ...]
    max_difference: float
    relative_difference: float

    def __str__(self) -> str:
        sizes = " and ".join(map(str, self.batches))
        return (
            f"{self.path}: {self.bytes:,} bytes; largest difference to the model's outputs {self.max_difference:.2e} "
            f"({self.relative_difference:.2e} relative), compared on batches of {sizes}"
        )


@dataclass(frozen=True)
class Job:
    """A model to be exported and the calls that it is compared on.

    Args:
        model: in evaluation mode.
        calls: positional arguments; the first are those to export with.
        outputs: of the model, the tensors of each call.
        dynamic: whether the size of the batch stays open.
    """

    model: nn.Module
    calls: tuple[tuple[Any, ...], ...]
    outputs: tuple[list[Tensor], ...]
    dynamic: bool

    def dynamic_shapes(self) -> tuple[Any, ...] | None:
        """Return what torch.export wants to hear about the batch; None where it is fixed."""
        if not self.dynamic:
            return None
        size = _dynamic_size(self.calls[0])
        batch = Dim("batch")

        def shape(leaf: object) -> dict[int, Any] | None:
            if not isinstance(leaf, Tensor):
                return None
            return {0: batch} if is_batched(leaf, size) else {}

        return tuple(pytree.tree_map(shape, argument) for argument in self.calls[0])


@contextmanager
def prepared(model: nn.Module, example: Example, *, dynamic_batch: bool) -> Iterator[Job]:
    """Put a model into the state in which it is exported; on leaving, it is as it was.

    Raises:
        ValueError: if the model cannot be watched or copied (`refuse_unfit`).
        ExportError: if the example is a mapping with a name that has no place among the positional arguments; if the
            batch is to be dynamic, but the example has none, or the model cannot run on another.
    """
    refuse_unfit(model)
    with untouched(model), torch.no_grad(), slow_path(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporters warn about their own inside
        call(model, example)  # an example that does not fit the model is no failed export
        arguments = _positional(model, example)
        calls = _calls(arguments) if dynamic_batch else [arguments]
        outputs = tuple(_outputs(model, arguments, dynamic=dynamic_batch) for arguments in calls)
        yield Job(model, tuple(calls), outputs, dynamic_batch)


def _positional(model: nn.Module, example: Example) -> tuple[Any, ...]:
    """Return an example as positional arguments, which files are called with; between them stand defaults."""
    if isinstance(example, Tensor):
        return (example,)
    if not isinstance(example, Mapping):
        return tuple(example)
    parameters = list(inspect.signature(model.forward).parameters.values())
    places = {p.name: place for place, p in enumerate(parameters) if p.kind is p.POSITIONAL_OR_KEYWORD}
    if unplaced := [name for name in example if name not in places]:
        raise ExportError(
            f"an exported model is called with positional arguments, and {unplaced[0]!r} has no place in "
            f"{type(model).__name__}.forward: wrap the model in a module that takes it as one"
        )
    last = max((places[name] for name in example), default=-1)
    return tuple(example.get(p.name, p.default) for p in parameters[: last + 1])


def _calls(arguments: tuple[Any, ...]) -> list[tuple[Any, ...]]:
    """Return calls of different batch sizes, the first not of one sample: torch.export would fix that."""
    size = _dynamic_size(arguments)
    calls = [tuple(resized(arguments, size, new)) for new in (max(size, 2), max(size, 2) + 1)]
    return [*calls, arguments] if size == 1 else calls


def _dynamic_size(arguments: tuple[Any, ...]) -> int:
    size = batch_size(arguments)
    if size is None:
        raise ExportError(
            "a dynamic batch needs an example with a batch, found no tensor with dimensions: dynamic_batch=False"
        )
    return size


def tensors_in(nest: object) -> list[Tensor]:
    """Return the tensors of a nest of containers, in order."""
    return [leaf for leaf in pytree.tree_leaves(nest) if isinstance(leaf, Tensor)]


def _outputs(model: nn.Module, arguments: Sequence[Any], *, dynamic: bool) -> list[Tensor]:
    try:
        return tensors_in(model(*arguments))
    except Exception as error:
        if not dynamic:
            raise
        raise ExportError(
            f"the model cannot run on a batch of {batch_size(arguments)}: {error}; dynamic_batch=False keeps to the "
            "example's"
        ) from error


@contextmanager
def staged(path: Path) -> Iterator[Path]:
    """Give a file name in a folder of its own; what is written there moves beside `path` when the block ends well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
        yield Path(folder) / path.name
        # The file itself comes last: it names the others.
        for file in sorted(Path(folder).iterdir(), key=lambda file: file.name == path.name):
            file.replace(path.parent / file.name)


def compare(
    job: Job, run: Callable[[Sequence[Any]], Sequence[Tensor]], staged_file: Path, path: Path, tol: float
) -> ExportCheck:
    """Run the exported form and compare.

    Raises:
        ExportError: if outputs differ in number, shape, or by more than `tol` relative to the largest output.
    """
    found = largest = 0.0
    for arguments, expected in zip(job.calls, job.outputs, strict=True):
        outputs = run(arguments)
        shapes = [[list(tensor.shape) for tensor in tensors] for tensors in (expected, outputs)]
        if shapes[0] != shapes[1]:
            raise ExportError(f"{path}: the outputs must have shapes {shapes[0]}, the exported ones have {shapes[1]}")
        for first, second in zip(expected, outputs, strict=True):
            difference = (first.double().cpu() - second.double().cpu()).abs()
            found = max(found, float(difference.nan_to_num(math.inf).max()) if difference.numel() else 0.0)
            largest = max(largest, float(first.double().abs().max()) if first.numel() else 0.0)
    relative = found / largest if largest > 0 else found
    if not relative <= tol:
        raise ExportError(
            f"{path}: the exported model must give the model's outputs within {tol:g} relative, found {relative:.2e} "
            f"({found:.2e} absolute); no file was written"
        )
    size = sum(file.stat().st_size for file in staged_file.parent.iterdir())
    sizes = [batch_size(call) for call in (job.calls if job.dynamic else job.calls[:1])]
    batches = tuple(size for size in sizes if size is not None)
    return ExportCheck(path, size, batches, found, relative)


def cannot_export(error: Exception, *, dynamic: bool) -> ExportError:
    """Say that torch cannot export a model, with the first line of its reason."""
    first = next(iter(str(error).strip().splitlines()), "no reason given")
    advice = "; dynamic_batch=False exports it for the example's batch size alone" if dynamic else ""
    return ExportError(f"torch cannot export this model: {type(error).__name__}: {first}{advice}")
