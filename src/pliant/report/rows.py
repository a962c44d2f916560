"""Rows: typed records in append-only JSONL files, one a line."""

from __future__ import annotations

import json
import logging
from dataclasses import MISSING, asdict, dataclass, field, fields
from types import NoneType
from typing import TYPE_CHECKING, Any, TypeVar

from pliant import atomic

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_LOG = logging.getLogger(__name__)
BY_MACS = " by MACs"  # ends the label of a compressor whose fractions are of the multiply-accumulates


@dataclass(frozen=True, kw_only=True)
class MetricsRow:
    """An epoch of training. Accuracies are shares in [0, 1].

    Args:
        epoch: 1 for the first.
        train_loss: mean over the epoch, while the weights were moving.
        train_accuracy: likewise.
        eval_accuracy: on the test set, or on what was held out, after the epoch.
        lr: that the epoch ended with, of the first group that the schedule drives; None without gradients.
        seconds: of training and evaluation since the start.
        shrinkage: sum of the step sizes so far, mean over constrained parameters; None without any.
        kept: share of the initial weights that is left, likewise.
        distance: relative distance to the model that the recipe's probe would cut; None without a probe.
        evaluations: gradients of a batch that were computed since the start; None in rows of older versions.
        penalty: value of the method's explicit regulariser after the epoch; None without one.
        objective: of block coordinate descent after the sweep, before what ends the run; None where not measured.
        gap: relative distance |W - G| / |W| of the weights W to their compressed copies G, likewise.
        residual: distance of 0 from the subdifferential of the objective, likewise.
        dense_accuracy: as `eval_accuracy`, which is G's, with W, likewise.
    """

    epoch: int
    train_loss: float
    train_accuracy: float
    eval_accuracy: float
    lr: float | None
    seconds: float
    shrinkage: float | None = None
    kept: float | None = None
    distance: float | None = None
    evaluations: int | None = None
    penalty: float | None = None
    objective: float | None = None
    gap: float | None = None
    residual: float | None = None
    dense_accuracy: float | None = None


@dataclass(frozen=True, kw_only=True)
class SweepRow:
    """One cut of a trained model. Accuracies are shares in [0, 1].

    Args:
        compressor: its label: the name, and the options that differ from the defaults.
        fraction: that was to be removed: of the atoms or, by MACs, of the multiply-accumulates.
        removed: of all atoms that is gone; layers that cannot be cut and rounding make the difference.
        raw: accuracy right after the cut.
        recalibrated: accuracy after BatchNorm recalibration; None where that was not asked for.
        parameters: of the cut model.
        macs: multiply-accumulates of the cut model for one image.
        dense_parameters: of the model before the cut.
        dense_macs: of the model before the cut.
        calibrate: how many training images the recalibration saw.
        reconstructed: accuracy after layer-wise reconstruction; None where that was not asked for.
        reconstruct: how many training images the reconstruction saw.
    """

    compressor: str
    fraction: float
    removed: float
    raw: float
    recalibrated: float | None
    parameters: int
    macs: int
    dense_parameters: int
    dense_macs: int
    calibrate: int = 0
    reconstructed: float | None = None
    reconstruct: int = 0

    @property
    def by_macs(self) -> bool:
        """Whether `fraction` is of the multiply-accumulates instead of the atoms."""
        return self.compressor.endswith(BY_MACS)


@dataclass(frozen=True, kw_only=True)
class TrialRow:
    """One setting of a method that was tried. Accuracies are shares in [0, 1], means over the seeds.

    Args:
        method: its name in the study.
        trial: number of the trial, 0 for the first.
        overrides: of the method's recipe.
        score: mean accuracy over the judged cuts, after recalibration where there is one; None if training diverged.
        dense: accuracy of the uncut models; None likewise.
        rows: for every judged cut the compressor, the fraction, and the accuracy before and after recalibration.
        seeds: of the runs.
        round: of the study.
        evaluations: gradients of a batch that a run computed; None in rows of older versions.
        seconds: of the trial; None likewise.
        error: why there is no score.
        terms: the recipe before the overrides, and how trials were judged; None in rows of older versions.
    """

    method: str
    trial: int
    overrides: dict[str, Any]
    score: float | None
    dense: float | None
    rows: list[list[Any]]
    seeds: list[int] = field(default_factory=lambda: [0])
    round: str = "1"
    evaluations: float | None = None
    seconds: float | None = None
    error: str | None = None
    terms: dict[str, Any] | None = None


Row = MetricsRow | SweepRow | TrialRow
R = TypeVar("R", MetricsRow, SweepRow, TrialRow)


class RowError(ValueError):
    """A line in the middle of a file of rows cannot be read."""


def append_row(path: Path, row: Row) -> None:
    """Add a row at the end of the file; it is on the disk when this returns."""
    atomic.append_text(path, _line(row))


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """Replace the file as a whole."""
    atomic.write_text(path, "".join(map(_line, rows)))


def read_rows(path: Path, kind: type[R]) -> list[R]:
    """Read a file of rows; a missing file holds none.

    A last line that was cut off, as by a crash, is left out with a warning in the log. Keys that this version does not
    know are ignored.

    Raises:
        RowError: another line cannot be read; the message says which.
    """
    lines = path.read_bytes().split(b"\n") if path.exists() else []
    rows = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            rows.append(_parse(line, kind))
        except ValueError as error:
            if number < len(lines):
                raise RowError(f"{path}, line {number} is not a {kind.__name__}: {error}") from error
            _LOG.warning("%s: the last line was cut off and is left out", path)
    return rows


def repair(path: Path, kind: type[R]) -> list[R]:
    """Read a file of rows and drop a last line that was cut off, so that rows can be appended again."""
    rows = read_rows(path, kind)
    if path.exists() and not path.read_bytes().endswith(b"\n"):
        write_rows(path, rows)
    return rows


def _line(row: Row) -> str:
    return json.dumps(asdict(row), allow_nan=False) + "\n"


def _parse(line: bytes, kind: type[R]) -> R:
    try:
        data = json.loads(line)
    except RecursionError:
        raise ValueError("must be one flat JSON object") from None
    return row_of(data, kind)


def row_of(data: object, kind: type[R]) -> R:
    """Return the row that plain data is; keys that this version does not know are ignored.

    Raises:
        ValueError: if it is none.
    """
    if not isinstance(data, dict):
        raise ValueError(f"must be a JSON object, found {data!r}")
    known = {f.name: f for f in fields(kind)}
    missing = [
        name for name, f in known.items() if name not in data and f.default is MISSING and f.default_factory is MISSING
    ]
    if missing:
        raise ValueError(f"{', '.join(missing)} missing")
    for name in known.keys() & data.keys():
        _check_type(name, data[name], str(known[name].type))
    return kind(**{name: value for name, value in data.items() if name in known})


_TYPES: dict[str, tuple[type, ...]] = {
    "str": (str,),
    "int": (int,),
    "float": (int, float),
    "int | None": (int, NoneType),
    "float | None": (int, float, NoneType),
    "dict[str, Any]": (dict,),
    "dict[str, Any] | None": (dict, NoneType),
}


def _check_type(name: str, value: object, needed: str) -> None:
    if isinstance(value, bool) or not isinstance(value, _TYPES.get(needed, (object,))):
        raise ValueError(f"{name} must be {needed}, found {value!r:.80}")
