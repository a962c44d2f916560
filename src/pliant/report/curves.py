"""Curves: accuracy against what a cut removed, over one run or over several that differ in their seed alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
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
    """One cut, over all seeds. Parameters and MACs are shares of the dense model's, means over the seeds.

    `fraction` is what was asked for, `removed` the share of the atoms that went; `recalibrated` and `reconstructed`
    are None unless every seed has them.
    """

    fraction: float
    removed: float
    raw: Spread
    recalibrated: Spread | None
    parameters: float
    macs: float
    reconstructed: Spread | None = None


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
        seeds: the sweep rows of every run; of two rows of a run for one cut the later counts.
        dense: accuracy of the uncut models.
    """
    latest = [_latest(rows) for rows in seeds]
    compressors = dict.fromkeys(compressor for rows in latest for compressor, _ in rows)
    return [Curve(method, name, _points([_only(rows, name) for rows in latest]), dense) for name in compressors]


def _latest(rows: Sequence[SweepRow]) -> dict[tuple[str, float], SweepRow]:
    return {(row.compressor, round(row.fraction, 9)): row for row in rows}


def _only(rows: dict[tuple[str, float], SweepRow], compressor: str) -> list[SweepRow]:
    return [row for (name, _), row in rows.items() if name == compressor]


def _points(seeds: Sequence[Sequence[SweepRow]]) -> tuple[Point, ...]:
    rows = sorted((row for seed in seeds for row in seed), key=_fraction)
    return tuple(_point(list(same)) for _, same in groupby(rows, key=_fraction))


def _fraction(row: SweepRow) -> float:
    return round(row.fraction, 9)


def _point(rows: Sequence[SweepRow]) -> Point:
    return Point(
        fraction=_fraction(rows[0]),
        removed=fmean(row.removed for row in rows),
        raw=Spread.of([row.raw for row in rows]),
        recalibrated=_spread([row.recalibrated for row in rows]),
        reconstructed=_spread([row.reconstructed for row in rows]),
        parameters=fmean(row.parameters / row.dense_parameters for row in rows),
        macs=fmean(row.macs / row.dense_macs if row.dense_macs else 1.0 for row in rows),
    )


def _spread(values: Sequence[float | None]) -> Spread | None:
    known = [value for value in values if value is not None]
    return Spread.of(known) if len(known) == len(values) else None
