"""sweep: one checkpoint, many fractions, raw and repaired."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from pliant.compress.atoms import check_fraction
from pliant.compress.budgets import Budget
from pliant.compress.calibrate import recalibrate_batchnorm
from pliant.compress.chooser import chooser
from pliant.compress.compressor import Compressor, check_kind, warn_if_whole
from pliant.compress.cut import Cut
from pliant.compress.reconstruct import reconstruct as fit_layers
from pliant.structure.example import Example


@dataclass(frozen=True)
class Row:
    """One cut of a sweep.

    Args:
        compressor: class name.
        fraction: asked to go: of the atoms or, in a sweep over budgets, of what they limit.
        removed_fraction: share of the atoms that is gone.
        raw: what `evaluate` said of the cut model as it is.
        recalibrated: what it said with recomputed running statistics; None without calibration batches.
        parameters: predicted, of the realised model.
        macs: predicted, of the realised model on the example, before any repair.
        dense_parameters: before the cut.
        dense_macs: before the cut.
        reconstructed: what `evaluate` said after layer-wise reconstruction; None without batches for it.
    """

    compressor: str
    fraction: float
    removed_fraction: float
    raw: float
    recalibrated: float | None
    parameters: int
    macs: int
    dense_parameters: int
    dense_macs: int
    reconstructed: float | None = None


def sweep(
    model: nn.Module,
    compressor: Compressor,
    fractions: Iterable[float],
    *,
    example: Example,
    evaluate: Callable[[nn.Module], float],
    calibrate: Iterable[Example] | None = None,
    reconstruct: Iterable[Example] | None = None,
    realise: bool = False,
    budget: Callable[[float], Budget] | None = None,
) -> list[Row]:
    """Cut one model at many fractions and evaluate each cut; the model is left as it is.

    The truncated models are evaluated, which have the outputs of the realised ones; sizes are those that the cuts
    predict for the realised ones.

    Args:
        model: the trained model.
        compressor: what is cut and how.
        fractions: to remove, each 0 <= fraction < 1: shares of the atoms or, with `budget`, of what it limits.
        example: what the model can be called with; MACs are counted on it.
        evaluate: called with a model, for example `lambda m: accuracy(m, batches)`; returns a number, or a tensor of
            one. Each call has a model of its own, which it may change.
        calibrate: batches of training inputs to recompute running statistics with, iterated once per fraction; None
            for no such numbers.
        reconstruct: batches of training inputs for `pliant.compress.reconstruct`, likewise.
        realise: evaluate the realised models instead.
        budget: of the share that may stay, such as `Macs`: cut to 1 - fraction of the multiply-accumulates.

    Raises:
        BudgetError: if a budget cannot be met.
        TypeError: if `compressor` is no Compressor, or `evaluate` returns something else than a number.
        ValueError: if a fraction is out of range, or `calibrate` or `reconstruct` can be iterated only once.
    """
    cuts = Cuts(
        model,
        compressor,
        example=example,
        evaluate=evaluate,
        calibrate=calibrate,
        reconstruct=reconstruct,
        realise=realise,
        budget=budget,
    )
    return [cuts.row(fraction) for fraction in fractions]


class Cuts:
    """One model, to be cut at many fractions; what does not depend on the fraction is found once, for all of them.

    Arguments and errors are those of `sweep`. The model must not change before the last row.
    """

    def __init__(
        self,
        model: nn.Module,
        compressor: Compressor,
        *,
        example: Example,
        evaluate: Callable[[nn.Module], float],
        calibrate: Iterable[Example] | None = None,
        reconstruct: Iterable[Example] | None = None,
        realise: bool = False,
        budget: Callable[[float], Budget] | None = None,
    ) -> None:
        check_kind(compressor)
        for name, batches in (("calibrate", calibrate), ("reconstruct", reconstruct)):
            if isinstance(batches, Iterator):
                raise ValueError(f"{name} must be re-iterable, such as a list, found a {type(batches).__name__}")
        self._model = model
        self._compressor = compressor
        self._realise = realise
        self._evaluate = evaluate
        self._calibrate = calibrate
        self._reconstruct = reconstruct
        self._choose = chooser(compressor, model, example)
        self._budget = budget

    def row(self, fraction: float) -> Row:
        """Return the row of one fraction."""
        cut = self._cut(fraction)
        warn_if_whole(cut, fraction)
        cut_model = (self._compressor.realise if self._realise else self._compressor.truncate)(self._model, cut)
        # Before `evaluate`, which may change the model that it is given.
        recalibrated = None if self._calibrate is None else recalibrate_batchnorm(cut_model, self._calibrate)
        raw = self._judged(cut_model)
        del cut_model  # reconstruction makes more copies
        return Row(
            compressor=cut.compressor,
            fraction=float(fraction),
            removed_fraction=cut.removed_fraction,
            raw=raw,
            recalibrated=None if recalibrated is None else self._judged(recalibrated),
            parameters=cut.parameters,
            macs=cut.macs,
            dense_parameters=cut.dense_parameters,
            dense_macs=cut.dense_macs,
            reconstructed=self._reconstructed(cut),
        )

    def _cut(self, fraction: float) -> Cut:
        if self._budget is None:
            return self._choose.cut(fraction)
        check_fraction(fraction)
        return self._choose.cut(budget=self._budget(round(1.0 - fraction, 12)))

    def _judged(self, model: nn.Module) -> float:
        """Return what `evaluate` says of a model, as a number without a graph behind it."""
        found: object = self._evaluate(model)
        plain: Any = found.detach() if isinstance(found, Tensor) else found
        if not isinstance(plain, str | bytes):
            with suppress(TypeError, ValueError, RuntimeError):
                return float(plain)
        kind = f"Tensor of shape {list(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
        raise TypeError(
            f"evaluate must return one number, or a tensor or array of one, found a {kind}: choose what to compare"
        )

    def _reconstructed(self, cut: Cut) -> float | None:
        if self._reconstruct is None:
            return None
        truncated = self._compressor.truncate(self._model, cut)
        found = fit_layers(truncated, self._model, cut, self._reconstruct)
        return self._judged(self._compressor.realise(found, cut) if self._realise else found)
