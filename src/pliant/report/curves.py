"""Curves: accuracy against what a cut removed, over one run or over several that differ in their seed alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from statistics import fmean

from pliant.report.rows import SweepRow


@dataclass(frozen=True)
class Spread:
    """Mean, smallest and largest of some values."""

    mean: float
    low: float
    high: float
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Summarise at least one value."""
        return cls(fmean(values), min(values), max(values), len(values))


@dataclass(frozen=True)
class Point:
    """One cut, over the seeds that have it. Parameters and MACs are shares of the dense model's, means over them.

    Args:
        fraction: what was asked for.
        removed: the share of the atoms that went.
        raw: accuracy right after the cut.
        recalibrated: after BatchNorm recalibration; None unless every seed has it, with as many images.
        parameters: that are left.
        macs: that are left.
        reconstructed: after layer-wise reconstruction; None likewise.
        calibrate: images that the recalibration saw.
        reconstruct: images that the reconstruction saw.
        by_macs: whether `fraction` is of the multiply-accumulates instead of the atoms.
        seeds: of the whole curve; those of this point are `raw.count`.
    """

    fraction: float
    removed: float
    raw: Spread
    recalibrated: Spread | None
    parameters: float
    macs: float
    reconstructed: Spread | None = None
    calibrate: int = 0
    reconstruct: int = 0
    by_macs: bool = False
    seeds: int = 1

    @property
    def went(self) -> float:
        """What was removed of what `fraction` is of: the atoms or the multiply-accumulates."""
        return 1.0 - self.macs if self.by_macs else self.removed

    @property
    def whole(self) -> bool:
        """Whether every seed of the curve has this cut."""
        return self.raw.count >= self.seeds


@dataclass(frozen=True)
class Curve:
    """One method under one compressor, by ascending fraction; `dense` is the accuracy before any cut, if known."""

    method: str
    compressor: str
    points: tuple[Point, ...]
    dense: Spread | None = None

    def at(self, fraction: float) -> Point | None:
        """Return the point of this fraction, if there is one."""
        return next((point for point in self.points if abs(point.fraction - fraction) < _SAME), None)


_SAME = 1e-9


def curves_of(method: str, seeds: Sequence[Sequence[SweepRow]], dense: Spread | None = None) -> list[Curve]:
    """Make a curve for every compressor.

    Args:
        method: its label.
        seeds: the sweep rows of every run, merged as `cuts_of` does.
        dense: accuracy of the uncut models.
    """
    cuts = [cuts_of(rows) for rows in seeds]
    compressors = dict.fromkeys(compressor for own in cuts for compressor, _ in own)
    return [Curve(method, name, _points([_only(own, name) for own in cuts]), dense) for name in compressors]


def cuts_of(rows: Sequence[SweepRow]) -> dict[tuple[str, float], SweepRow]:
    """Return the cuts of one run, by compressor and fraction.

    Of several rows for one cut the latest counts. A repair that it has not, with its number of images, is taken from
    the latest row that has it and removes the same.
    """
    cuts: dict[tuple[str, float], SweepRow] = {}
    for row in rows:
        key = (row.compressor, _fraction(row))
        cuts[key] = _repaired(row, cuts.get(key))
    return cuts


def _repaired(row: SweepRow, earlier: SweepRow | None) -> SweepRow:
    if earlier is None or _left(row) != _left(earlier):
        return row
    if row.recalibrated is None:
        row = replace(row, recalibrated=earlier.recalibrated, calibrate=earlier.calibrate)
    if row.reconstructed is None:
        row = replace(row, reconstructed=earlier.reconstructed, reconstruct=earlier.reconstruct)
    return row


def _left(row: SweepRow) -> tuple[float, int, int]:
    return row.removed, row.parameters, row.macs


def _only(cuts: Mapping[tuple[str, float], SweepRow], compressor: str) -> list[SweepRow]:
    return [row for (name, _), row in cuts.items() if name == compressor]


def _points(seeds: Sequence[Sequence[SweepRow]]) -> tuple[Point, ...]:
    rows = sorted((row for seed in seeds for row in seed), key=_fraction)
    return tuple(_point(list(same), len(seeds)) for _, same in groupby(rows, key=_fraction))


def _fraction(row: SweepRow) -> float:
    return round(row.fraction, 9)


def _point(rows: Sequence[SweepRow], seeds: int) -> Point:
    recalibrated, calibrate = _repair([(row.recalibrated, row.calibrate) for row in rows])
    reconstructed, reconstruct = _repair([(row.reconstructed, row.reconstruct) for row in rows])
    return Point(
        fraction=_fraction(rows[0]),
        removed=fmean(row.removed for row in rows),
        raw=Spread.of([row.raw for row in rows]),
        recalibrated=recalibrated,
        reconstructed=reconstructed,
        parameters=fmean(row.parameters / row.dense_parameters for row in rows),
        macs=fmean(row.macs / row.dense_macs if row.dense_macs else 1.0 for row in rows),
        calibrate=calibrate,
        reconstruct=reconstruct,
        by_macs=rows[0].by_macs,
        seeds=seeds,
    )


def _repair(found: Sequence[tuple[float | None, int]]) -> tuple[Spread | None, int]:
    """Return the accuracies after a repair and its images; None and 0 unless all seeds have it, on as many images."""
    known = [accuracy for accuracy, _ in found if accuracy is not None]
    counts = {images for _, images in found}
    return (Spread.of(known), counts.pop()) if len(known) == len(found) and len(counts) == 1 else (None, 0)
