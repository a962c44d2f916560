"""torch.export: a graph of the model with its weights, which runs without the model's code."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pliant.export.check import ExportCheck, ExportError, Job, cannot_export, compare, prepared, staged, tensors_in
from pliant.structure.example import Example


def to_torch_export(
    model: nn.Module,
    example: Example,
    path: str | Path,
    *,
    dynamic_batch: bool = True,
    tol: float = 1e-5,
) -> ExportCheck:
    """Write a model with `torch.export.save`, load it again and compare; a file that differs never appears.

    The model is exported in evaluation mode and is left as it was; the batch is handled as by `to_onnx`.

    Args:
        model: any module that `torch.export` can follow.
        example: what the model can be called with.
        path: of the file, `*.pt2`; replaced if it is there.
        dynamic_batch: leave the batch size open.
        tol: allowed difference, relative to the largest output.

    Raises:
        ExportError: if the path does not end in .pt2, the model cannot be exported, or the outputs differ by more than
            `tol`.
    """
    path = Path(path)
    if path.suffix != ".pt2":
        raise ExportError(f"path must end in .pt2, as torch.export.load wants it, found {str(path)!r}")
    with prepared(model, example, dynamic_batch=dynamic_batch) as job, staged(path) as file:
        _write(job, file)
        loaded = torch.export.load(file).module()
        return compare(job, lambda arguments: _run(loaded, arguments), file, path, tol)


def _write(job: Job, file: Path) -> None:
    try:
        program = torch.export.export(job.model, job.calls[0], dynamic_shapes=job.dynamic_shapes())
        torch.export.save(program, file)
    except Exception as error:  # (torch has no common base class for what an export can meet)
        raise cannot_export(error, dynamic=job.dynamic) from error


def _run(model: nn.Module, arguments: Sequence[Any]) -> list[Tensor]:
    return tensors_in(model(*arguments))
