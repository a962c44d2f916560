"""Gaps: what keeps points of a curve from being means over all runs of a method."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pliant.report.curves import cuts_of
from pliant.report.rows import SweepRow
from pliant.report.study import Entry
from pliant.suggestion import command


def gaps(entries: Sequence[Entry]) -> list[str]:
    """Say which runs lack cuts that others of their method have, and which were repaired with other images."""
    return [text for entry in entries for curve in _curves(entry) for text in (*_lacking(curve), *_unequal(curve))]


@dataclass(frozen=True)
class _Runs:
    """The cuts of a method by one compressor: of every run by their fractions."""

    name: str
    cuts: Mapping[Path, Mapping[float, SweepRow]]

    @property
    def fractions(self) -> list[float]:
        return sorted({fraction for own in self.cuts.values() for fraction in own})


@dataclass(frozen=True)
class _Repair:
    title: str
    option: str
    images: Callable[[SweepRow], int]


_REPAIRS = (
    _Repair("recalibrated", "--calibrate", lambda row: 0 if row.recalibrated is None else row.calibrate),
    _Repair("reconstructed", "--reconstruct", lambda row: 0 if row.reconstructed is None else row.reconstruct),
)


def _curves(entry: Entry) -> Iterator[_Runs]:
    runs = {record.path: cuts_of(record.sweep) for record in entry.records}
    for compressor in dict.fromkeys(name for cuts in runs.values() for name, _ in cuts):
        cuts = {path: {f: row for (name, f), row in own.items() if name == compressor} for path, own in runs.items()}
        yield _Runs(f"{entry.label}, {compressor}", cuts)


def _lacking(runs: _Runs) -> Iterator[str]:
    for path, own in runs.cuts.items():
        if lacking := [fraction for fraction in runs.fractions if fraction not in own]:
            way_out = f"; run: {command('sweep', path)}" if path.is_dir() else ""  # archived runs have no folder
            yield (
                f"{runs.name}: {path} has no cut at {_percents(lacking)}, so means there are over fewer seeds{way_out}"
            )


def _unequal(runs: _Runs) -> Iterator[str]:
    for repair in _REPAIRS:
        seen: dict[tuple[tuple[Path, int], ...], list[float]] = {}
        for fraction in runs.fractions:
            images = tuple((path, repair.images(own[fraction])) for path, own in runs.cuts.items() if fraction in own)
            if len({count for _, count in images}) > 1:
                seen.setdefault(images, []).append(fraction)
        for images, fractions in seen.items():
            yield (
                f"{runs.name}: {repair.title} at {_percents(fractions)} with {_counts(images)}: left out, "
                f"since these do not make one mean; sweep the runs with the same {repair.option}"
            )


def _counts(images: Iterable[tuple[Path, int]]) -> str:
    by_count: dict[int, list[str]] = {}
    for path, count in images:
        by_count.setdefault(count, []).append(str(path))
    return "; ".join(f"{count or 'no'} images in {', '.join(paths)}" for count, paths in by_count.items())


def _percents(fractions: Iterable[float]) -> str:
    return ", ".join(f"{100 * fraction:g} %" for fraction in fractions)
