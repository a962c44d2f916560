"""compress: one model, one cut, the smaller model and what became of it."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn

from pliant.compress.budgets.budget import Budget, one_budget
from pliant.compress.budgets.record import BudgetRecord
from pliant.compress.calibrate import recalibrate_batchnorm
from pliant.compress.compressor import Compressor, check_kind, warn_if_whole
from pliant.compress.cut import Cut
from pliant.compress.reconstruct import reconstruct as fit_layers
from pliant.compress.report import CompressionReport
from pliant.compress.variance import match_variance
from pliant.metrics.footprint import Footprint, footprint
from pliant.metrics.latency import Latency
from pliant.structure.example import Example, call
from pliant.structure.outputs import outputs_of
from pliant.structure.untouched import untouched

_LOG = logging.getLogger(__name__)


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
    macs: float | None = None,
    params: float | None = None,
    budget: Budget | None = None,
    example: Example,
    repair: Iterable[Example] | None = None,
    calibrate: Iterable[Example] | None = None,
    reconstruct: Iterable[Example] | None = None,
    latency: Latency | bool = False,
) -> Compressed:
    """Cut a model and make it physically smaller; the model given is left as it is.

    Args:
        model: the trained model.
        compressor: what is cut and how.
        fraction: share of the atoms to remove, 0 <= fraction < 1.
        macs: the most multiply-accumulates that the realised model may have, instead of a fraction: a float is a share
            of those before the cut, 0 < macs <= 1, a whole number stands for itself.
        params: the same for parameters.
        budget: the same for any `Budget`, such as `Macs(0.5, ByFraction())` or `LatencyTarget(0.5, table)`. The cut
            meets it. If the work of the model depends on its data, as in mixtures of experts, repaired weights may call
            for more of it again: the report's `budget` has what was counted, and a warning is logged.
        example: what the model can be called with; MACs are counted and outputs compared on it.
        repair: batches of training inputs to give channels back their mean and spread with, in layers that no batch
            norm follows (`match_variance`); None leaves them.
        calibrate: batches of training inputs to recompute running statistics with, after the cut; None leaves them.
        reconstruct: batches of training inputs to fit what is left of each layer with, so that it computes what it did
            before the cut (`pliant.compress.reconstruct`, which recomputes running statistics too); None leaves it.
            It starts from the weights before the cut, so that `repair` is not wanted beside it.
        latency: how to measure the time of a call before and after, or True for half a second each.

    Raises:
        TypeError: if `compressor` is no Compressor.
        BudgetError: if the budget cannot be met.
        ValueError: if the fraction is out of range, not exactly one of fraction, macs, params and budget is given, or
            there is no batch to repair, calibrate or reconstruct with, or both repair and reconstruct are given.
    """
    if repair is not None and reconstruct is not None:
        raise ValueError("repair and reconstruct are both given: choose one, the latter does more and takes longer")
    budget = one_budget(budget, macs=macs, params=params)
    check_kind(compressor)
    cut = compressor.select(model, fraction, budget=budget, example=example)
    warn_if_whole(cut, fraction, budget)
    truncated = compressor.truncate(model, cut)
    if repair is not None:
        truncated = match_variance(truncated, model, repair)
    if reconstruct is not None:
        truncated = fit_layers(truncated, model, cut, reconstruct)
    if calibrate is not None:
        truncated = recalibrate_batchnorm(truncated, calibrate)
    realised = compressor.realise(truncated, cut)
    how = Latency() if latency is True else latency or None
    after = footprint(realised, example, latency=how)
    report = _report(
        cut,
        before=footprint(model, example, latency=how),
        after=after,
        budget=_counted(cut, budget, realised, after, example),
        difference=output_difference(truncated, realised, example),
        repaired=repair is not None,
        recalibrated=calibrate is not None or reconstruct is not None,
        reconstructed=reconstruct is not None,
    )
    return Compressed(realised, cut, report)


def _report(
    cut: Cut,
    *,
    before: Footprint,
    after: Footprint,
    budget: BudgetRecord | None,
    difference: tuple[float, float],
    repaired: bool,
    recalibrated: bool,
    reconstructed: bool,
) -> CompressionReport:
    removed = {name: total - cut.count(name) for name, total in cut.atoms.items()}
    absolute, largest = difference
    return CompressionReport(
        compressor=cut.compressor,
        fraction=cut.fraction,
        atoms=sum(cut.atoms.values()),
        removed=sum(removed.values()),
        zeros=sum(removed.get(name, 0) for name in cut.left_dense),
        before=before,
        after=after,
        predicted_parameters=cut.parameters,
        predicted_macs=cut.macs,
        max_difference=absolute,
        relative_difference=absolute / largest if largest > 0 else absolute,
        repaired=repaired,
        recalibrated=recalibrated,
        reconstructed=reconstructed,
        skipped=cut.skipped,
        left_dense=cut.left_dense,
        budget=budget,
    )


def _counted(
    cut: Cut, budget: Budget | None, realised: nn.Module, after: Footprint, example: Example
) -> BudgetRecord | None:
    """Return the budget's record with what the realised model costs, and warn if that is more than was asked for.

    A cut knows what it costs. Only a model whose work depends on its data costs something else once it is repaired.
    """
    if budget is None or cut.budget is None or after.macs == cut.macs:
        return cut.budget
    record = cut.budget.counted(budget.measure(realised, example))
    if not record.met:
        _LOG.warning(
            "%s: %s MACs counted, %s predicted before the repair: the work of this model depends on its data, and the "
            "repair sends them elsewhere. Ask for some %.0f%% less, or repair less",
            record,
            f"{after.macs:,}",
            f"{cut.macs:,}",
            math.ceil(100.0 * (record.reached / record.limit - 1.0)),
        )
    return record


def output_difference(first: nn.Module, second: nn.Module, example: Example) -> tuple[float, float]:
    """Return the largest absolute difference of two models' outputs in evaluation mode, and the largest output."""
    with untouched(first), untouched(second), torch.no_grad():
        return largest_difference(call(first, example), call(second, example))


def largest_difference(first: object, second: object) -> tuple[float, float]:
    """Return the largest absolute difference of what two models returned, and the largest absolute entry of the first.

    Raises:
        ValueError: if there is no tensor in one of them, or not the same number in both.
    """
    pairs = [
        (a.detach().double(), b.detach().double())
        for (a, _), (b, _) in zip(outputs_of(first), outputs_of(second), strict=True)
        if a.numel()
    ]
    difference = max((float((a - b).abs().max()) for a, b in pairs), default=0.0)
    return difference, max((float(a.abs().max()) for a, _ in pairs), default=0.0)
