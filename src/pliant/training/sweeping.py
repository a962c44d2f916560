"""Sweep a finished run: one checkpoint, many cuts, a row for each as it comes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pliant.compress.sweep import sweep_rows
from pliant.report.rows import SweepRow, append_row, repair
from pliant.training.build import judge
from pliant.training.compressors import build_compressor, label_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pliant.compress import Row
    from pliant.training.experiment import Run
    from pliant.training.recipe_sweep import CompressorSpec, SweepSection


def sweep_run(run: Run, section: SweepSection) -> Iterator[SweepRow]:
    """Cut the run's model by every compressor at every fraction; each row is on disk before it is yielded.

    Rows of an earlier sweep stay in the file; of two rows for one cut the later counts.
    """
    repair(run.folder.sweep, SweepRow)
    for spec in section.compressors:
        for row in _rows(run, spec, section.fractions, section.calibrate):
            append_row(run.folder.sweep, row)
            yield row


def _rows(run: Run, spec: CompressorSpec, fractions: Sequence[float], images: int) -> Iterator[SweepRow]:
    compressor, example = build_compressor(spec), run.data.example()
    images = min(images, len(run.data.learn))
    calibrate = run.data.calibration(images, run.recipe.data.batch_size, run.recipe.seed) if images else None
    rows = sweep_rows(
        run.model,
        compressor,
        fractions,
        example=example,
        evaluate=lambda model: judge(run.recipe, run.data, model),
        calibrate=calibrate,
    )
    for row in rows:  # one at a time, so that a row is on disk as soon as it is known
        yield _record(row, label_of(spec), images)


def _record(row: Row, label: str, images: int) -> SweepRow:
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
        calibrate=images,
    )
