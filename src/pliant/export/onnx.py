"""ONNX, run by onnxruntime before the file gets its name."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from pliant.export.check import (
    ExportCheck,
    ExportError,
    Job,
    MissingExportExtraError,
    cannot_export,
    compare,
    prepared,
    staged,
    tensors_in,
)
from pliant.structure.example import Example

_LARGEST = 1_900_000_000  # bytes in one file; the format ends at 2 GB, larger weights go into a file beside it


def to_onnx(
    model: nn.Module,
    example: Example,
    path: str | Path,
    *,
    dynamic_batch: bool = True,
    tol: float = 1e-4,
) -> ExportCheck:
    """Write a model as ONNX, and compare it on the spot with onnxruntime; a file that differs never appears.

    The model is exported in evaluation mode and is left as it was. With a dynamic batch, the example, another batch
    size, and a batch of one where the example is one, are compared; the batch is the first dimension of all tensors
    that have the same first dimension as the first of them.

    Args:
        model: any module that `torch.export` can follow.
        example: what the model can be called with.
        path: of the file, usually `*.onnx`; replaced if it is there.
        dynamic_batch: leave the batch size open.
        tol: allowed difference, relative to the largest output.

    Raises:
        MissingExportExtraError: without onnx, onnxscript and onnxruntime.
        ExportError: if the model cannot be exported or run, or the outputs differ by more than `tol`.
    """
    runtime, *_ = [_require(name) for name in ("onnxruntime", "onnx", "onnxscript")]
    path = Path(path)
    with prepared(model, example, dynamic_batch=dynamic_batch) as job, staged(path) as file:
        _write(job, file)
        return compare(job, _Session(runtime, file).run, file, path, tol)


def _write(job: Job, file: Path) -> None:
    weights = sum(t.numel() * t.element_size() for t in [*job.model.parameters(), *job.model.buffers()])
    try:
        torch.onnx.export(
            job.model,
            job.calls[0],
            file,
            dynamo=True,
            verbose=False,
            external_data=weights > _LARGEST,
            dynamic_shapes=job.dynamic_shapes(),
        )
    except Exception as error:  # (torch has no common base class for what an export can meet)
        raise cannot_export(error, dynamic=job.dynamic) from error


class _Session:
    """An ONNX file in onnxruntime, on the CPU."""

    def __init__(self, runtime: ModuleType, file: Path) -> None:
        options = runtime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3  # errors alone
        try:
            self._session = runtime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # (onnxruntime's own exceptions derive from Exception alone)
            raise ExportError(f"onnxruntime cannot load the exported model: {error}") from error

    def run(self, arguments: Sequence[Any]) -> list[Tensor]:
        names = [entry.name for entry in self._session.get_inputs()]
        tensors = tensors_in(arguments)
        if len(names) != len(tensors):
            raise ExportError(f"the exported model must take {len(tensors)} tensors, found the inputs {names}")
        feed = {name: tensor.detach().cpu().numpy() for name, tensor in zip(names, tensors, strict=True)}
        try:
            return [torch.as_tensor(output) for output in self._session.run(None, feed)]
        except Exception as error:  # (as above)
            raise ExportError(f"onnxruntime cannot run the exported model: {error}") from error


def _require(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise MissingExportExtraError(
            f"ONNX export needs {name!r}, which cannot be imported: pip install 'pliant[export]'"
        ) from error
