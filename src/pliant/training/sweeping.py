"""Sweep a finished run: one checkpoint, many cuts, a row for each as it comes."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import cache, cached_property, partial
from typing import TYPE_CHECKING, Literal

from pliant.compress import backward_elimination, closest
from pliant.compress.budgets import BudgetError, Macs
from pliant.compress.sweep import Cuts, Row
from pliant.distributed import World
from pliant.report.rows import BY_MACS, SweepRow, append_row, repair
from pliant.training.build import judge
from pliant.training.compressors import candidates_of, label_of
from pliant.training.recipe_sweep import CompressorSpec, SweepSection, UnstructuredSpec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from torch import Tensor

    from pliant.compress import Budget, Compressor, FilterPruning
    from pliant.training.experiment import Run


ALONE = World()
_LOG = logging.getLogger(__name__)


def sweep_run(run: Run, section: SweepSection, world: World = ALONE) -> Iterator[SweepRow]:
    """Cut the run's model by every compressor at every fraction; each row is on disk before it is yielded.

    Rows of an earlier sweep stay in the file; of two rows for one cut the later counts. A cut that would have to leave
    less than every layer must keep is logged and has no row.

    Args:
        run: finished.
        section: what is cut, and where.
        world: the processes that share the cuts out among them; only the first one writes.
    """
    world.on_main(lambda: repair(run.folder.sweep, SweepRow))
    images = _Images(*(min(count, len(run.data.learn)) for count in (section.calibrate, section.reconstruct)))
    measure = cache(partial(measured, run, images.reconstruct))
    for series in series_of(section):
        cuts = _Cutting(run, series, images, candidates_of(series.compressor, measure))
        for start in range(0, len(series.fractions), world.size):  # one for each rank, so that rows are soon on disk
            for row in world.spread(series.fractions[start : start + world.size], partial(_row, cuts, series.label)):
                if row is None:
                    continue
                record = _record(row, series.label, images)
                if world.is_main:
                    append_row(run.folder.sweep, record)
                yield record


@dataclass(frozen=True)
class _Images:
    """How many of the training images each repair sees."""

    calibrate: int
    reconstruct: int


@dataclass(frozen=True)
class Series:
    """Cuts by one compressor.

    Args:
        compressor: as the recipe has it.
        label: in rows, tables and plots.
        key: of the section: "fractions" are of the atoms, "macs" of the multiply-accumulates.
        fractions: to be removed.
    """

    compressor: CompressorSpec
    label: str
    key: Literal["fractions", "macs"]
    fractions: list[float]


def series_of(section: SweepSection) -> Iterator[Series]:
    """Yield what a section asks for: every compressor by its fractions, then those that can by multiply-accumulates."""
    for spec in section.compressors if section.fractions else ():
        yield Series(spec, label_of(spec), "fractions", section.fractions)
    for spec in section.compressors if section.macs else ():
        if not isinstance(spec, UnstructuredSpec):
            yield Series(spec, f"{label_of(spec)}{BY_MACS}", "macs", section.macs)


def _row(cutting: _Cutting, label: str, fraction: float) -> Row | None:
    try:
        return cutting.row(fraction)
    except BudgetError as error:
        _LOG.warning("%s: %.4g of the MACs cannot go, the cut is left out: %s", label, fraction, error)
        return None


def repair_batches(run: Run, images: int) -> list[Tensor] | None:
    """Return training images for repairs after a cut, None for none."""
    return run.data.calibration(images, run.recipe.data, run.recipe.seed) if images else None


def measured(run: Run, images: int, pruning: FilterPruning) -> FilterPruning:
    """Return the pruning with scores measured on so many training images.

    Raises:
        ValueError: if that is none.
    """
    batches = repair_batches(run, images)
    if batches is None:
        raise ValueError("the score reconstruction is measured on images: reconstruct must be 1 or more, found 0")
    return backward_elimination(pruning, run.model, batches)


def chosen(run: Run, candidates: Sequence[Compressor], images: int, budget: Budget | None) -> Compressor:
    """Return the compressor that a run's model is cut by: the only one, or the closest under a budget.

    Raises:
        ValueError: if the closest is to be found on no images.
    """
    if len(candidates) == 1 or budget is None:
        return candidates[0]
    batches = repair_batches(run, images)
    if batches is None:
        raise ValueError("search: the closest is found on images: reconstruct must be 1 or more, found 0")
    return closest(candidates, run.model, batches, budget=budget, example=run.data.example())


@dataclass(frozen=True)
class _Cutting:
    """The cuts of a series; where there are several candidates, each cut is made by the closest."""

    run: Run
    series: Series
    images: _Images
    candidates: Sequence[Compressor]

    def row(self, fraction: float) -> Row:
        if len(self.candidates) == 1 or self._budget is None:
            return self._alone.row(fraction)
        budget = self._budget(round(1.0 - fraction, 12))
        return self._cuts(chosen(self.run, self.candidates, self.images.reconstruct, budget)).row(fraction)

    @property
    def _budget(self) -> Callable[[float], Budget] | None:
        return Macs if self.series.key == "macs" else None

    @cached_property
    def _alone(self) -> Cuts:
        return self._cuts(self.candidates[0])

    def _cuts(self, compressor: Compressor) -> Cuts:
        run = self.run
        return Cuts(
            run.model,
            compressor,
            example=run.data.example(),
            evaluate=lambda model: judge(run.recipe, run.data, model),
            calibrate=repair_batches(run, self.images.calibrate),
            reconstruct=repair_batches(run, self.images.reconstruct),
            budget=self._budget,
        )


def _record(row: Row, label: str, images: _Images) -> SweepRow:
    return SweepRow(
        compressor=label,
        fraction=row.fraction,
        removed=row.removed_fraction,
        raw=row.raw,
        recalibrated=row.recalibrated,
        parameters=row.parameters,
        macs=row.macs,
        dense_parameters=row.dense_parameters,
        dense_macs=row.dense_macs,
        calibrate=images.calibrate,
        reconstructed=row.reconstructed,
        reconstruct=images.reconstruct,
    )
