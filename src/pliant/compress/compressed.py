"""compress: one model, one cut, the smaller model and what became of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from pliant.compress.calibrate import recalibrate_batchnorm
from pliant.compress.compressor import Compressor, select_cut
from pliant.compress.cut import Cut
from pliant.metrics.accuracy import eval_mode
from pliant.metrics.size import size
from pliant.structure.norms import Example, call


@dataclass(frozen=True)
class CompressionReport:
    """What a cut did.

    Args:
        compressor: class name.
        fraction: fraction asked for, or None.
        removed_fraction: share of the atoms that is gone.
        parameters: counted on the realised model.
        macs: counted on the realised model, on the example.
        bytes: of the realised model.
        nonzero: non-zero parameters of the realised model.
        dense_parameters: before.
        dense_macs: before.
        predicted_parameters: what the cut said beforehand.
        predicted_macs: what the cut said beforehand.
        max_difference: largest absolute difference between the outputs of the truncated and the realised model on the
            example, in evaluation mode.
        relative_difference: the same divided by the largest absolute output.
        recalibrated: whether running statistics were recomputed.
        skipped: name -> why it was not cut.
        left_dense: layer name -> why its removed atoms are zeros in a layer of the old size.
    """

    compressor: str
    fraction: float | None
    removed_fraction: float
    parameters: int
    macs: int
    bytes: int
    nonzero: int
    dense_parameters: int
    dense_macs: int
    predicted_parameters: int
    predicted_macs: int
    max_difference: float
    relative_difference: float
    recalibrated: bool
    skipped: Mapping[str, str]
    left_dense: Mapping[str, str]

    def __str__(self) -> str:
        asked = "" if self.fraction is None else f", asked for {self.fraction:.1%}"
        lines = [
            f"{self.compressor}: {self.removed_fraction:.1%} of the atoms removed{asked}",
            f"parameters  {self.dense_parameters:>14,} -> {self.parameters:>14,}",
            f"MACs        {self.dense_macs:>14,} -> {self.macs:>14,}",
            f"largest difference to the truncated model's outputs: {self.relative_difference:.2e} relative",
        ]
        lines += [f"left dense  {name}: {reason}" for name, reason in self.left_dense.items()]
        lines += [f"skipped     {name}: {reason}" for name, reason in self.skipped.items()]
        return "\n".join(lines)


@dataclass(frozen=True)
class Compressed:
    """The smaller model, the cut that made it, and the report."""

    model: nn.Module
    cut: Cut
    report: CompressionReport


def compress(
    model: nn.Module,
    compressor: Compressor,
    fraction: float | None = None,
    *,
    budget: object = None,
    example: Example,
    calibrate: Iterable[Example] | None = None,
) -> Compressed:
    """Cut a model and make it physically smaller; the model given is left as it is.

    Args:
        model: the trained model.
        compressor: what is cut and how.
        fraction: share of the atoms to remove, 0 <= fraction < 1.
        budget: not available yet.
        example: what the model can be called with; MACs are counted and outputs compared on it.
        calibrate: batches of training inputs to recompute running statistics with, after the cut; None leaves them.

    Raises:
        TypeError: if `compressor` is no Compressor.
        ValueError: if the fraction is out of range, or there is no batch to calibrate with.
    """
    cut = select_cut(compressor, model, fraction, budget=budget, example=example)
    truncated = compressor.truncate(model, cut)
    if calibrate is not None:
        truncated = recalibrate_batchnorm(truncated, calibrate)
    realised = compressor.realise(truncated, cut)
    difference, largest = output_difference(truncated, realised, example)
    counted = size(realised, example)
    report = CompressionReport(
        compressor=cut.compressor,
        fraction=cut.fraction,
        removed_fraction=cut.removed_fraction,
        parameters=counted.parameters,
        macs=counted.macs,
        bytes=counted.bytes,
        nonzero=counted.nonzero,
        dense_parameters=cut.dense_parameters,
        dense_macs=cut.dense_macs,
        predicted_parameters=cut.parameters,
        predicted_macs=cut.macs,
        max_difference=difference,
        relative_difference=difference / largest if largest > 0 else difference,
        recalibrated=calibrate is not None,
        skipped=cut.skipped,
        left_dense=cut.left_dense,
    )
    return Compressed(realised, cut, report)


def output_difference(first: nn.Module, second: nn.Module, example: Example) -> tuple[float, float]:
    """Return the largest absolute difference of two models' outputs in evaluation mode, and the largest output."""
    with eval_mode(first), eval_mode(second), torch.no_grad():
        return largest_difference(call(first, example), call(second, example))


def largest_difference(first: object, second: object) -> tuple[float, float]:
    """Return the largest absolute difference of two nests of tensors, and the largest absolute entry of the first."""
    pairs = [
        (a.double(), b.double())
        for a, b in zip(pytree.tree_leaves(first), pytree.tree_leaves(second), strict=True)
        if isinstance(a, Tensor) and isinstance(b, Tensor) and a.numel()
    ]
    difference = max((float((a - b).abs().max()) for a, b in pairs), default=0.0)
    return difference, max((float(a.abs().max()) for a, _ in pairs), default=0.0)
