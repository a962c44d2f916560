"""Sweep a finished run: one checkpoint, many cuts, a row for each as it comes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pliant.compress.sweep import Cuts
from pliant.distributed import World
from pliant.report.rows import SweepRow, append_row, repair
from pliant.training.build import judge
from pliant.training.compressors import build_compressor, label_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pliant.compress import Row
    from pliant.training.experiment import Run
    from pliant.training.recipe_sweep import CompressorSpec, SweepSection


ALONE = World()


def sweep_run(run: Run, section: SweepSection, world: World = ALONE) -> Iterator[SweepRow]:
    """Cut the run's model by every compressor at every fraction; each row is on disk before it is yielded.

    Rows of an earlier sweep stay in the file; of two rows for one cut the later counts.

    Args:
        run: finished.
        section: what is cut, and where.
        world: the processes that share the cuts out among them; only the first one writes.
    """
    world.on_main(lambda: repair(run.folder.sweep, SweepRow))
    images = min(section.calibrate, len(run.data.learn))
    for spec in section.compressors:
        cuts = _cuts(run, spec, images)
        for start in range(0, len(section.fractions), world.size):  # one for each rank, so that rows are soon on disk
            for row in world.spread(section.fractions[start : start + world.size], cuts.row):
                record = _record(row, label_of(spec), images)
                if world.is_main:
                    append_row(run.folder.sweep, record)
                yield record


def _cuts(run: Run, spec: CompressorSpec, images: int) -> Cuts:
    return Cuts(
        run.model,
        build_compressor(spec),
        example=run.data.example(),
        evaluate=lambda model: judge(run.recipe, run.data, model),
        calibrate=run.data.calibration(images, run.recipe.data.batch_size, run.recipe.seed) if images else None,
    )


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
