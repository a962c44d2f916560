"""What the numbers are held against: one line a target, met or not, from the rows of the other sections."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import tables
from benchmarks.contestants import LITERALS
from benchmarks.levels import FULL
from benchmarks.overhead import EVERY_STEP
from benchmarks.section import read
from benchmarks.share import SETTINGS
from benchmarks.tables import Column, Row

_BLOCK_POWER, _FULL_SVD = LITERALS[2].name, LITERALS[3].name
_NET = "resnet-18"
_ARITHMETIC = [setting.name for setting in SETTINGS]


@dataclass(frozen=True)
class Target:
    """A number that should be at most, or at least, a bound.

    Args:
        text: what is asked.
        section: whose rows tell.
        found: the number, from the rows of a full run; None if they do not have it.
        bound: of it.
        most: True if it should be at most the bound, False if at least.
        write: how the number is written.
    """

    text: str
    section: str
    found: Callable[[Sequence[Row]], float | None]
    bound: float
    most: bool
    write: Callable[[float], str]

    def row(self, folder: Path) -> Row:
        """Return the target's line in the table."""
        result = read(folder, self.section, gpu=False)
        value = self.found(result.rows) if result is not None and result.level == FULL.name else None
        asked = f"{'at most' if self.most else 'at least'} {self.write(self.bound)}"
        if value is None:
            return {"text": self.text, "asked": asked}
        met = value <= self.bound if self.most else value >= self.bound
        return {"text": self.text, "asked": asked, "found": self.write(value), "met": "yes" if met else "**no**"}


def table(folder: Path) -> str:
    """Return all targets as Markdown."""
    columns = (Column("target", "text"), Column("asked", "asked"), Column("found", "found"), Column("met", "met"))
    return tables.table(columns, [target.row(folder) for target in TARGETS])


def _where(rows: Sequence[Row], **known: object) -> list[Row]:
    return [row for row in rows if all(row[key] == value for key, value in known.items())]


def _value(key: str, **known: object) -> Callable[[Sequence[Row]], float | None]:
    def found(rows: Sequence[Row]) -> float | None:
        hits = _where(rows, **known)
        return hits[0][key] if hits else None

    return found


def _faster_than(literal: str) -> Callable[[Sequence[Row]], float | None]:
    def found(rows: Sequence[Row]) -> float | None:
        slow = _value("seconds", net=_NET, optimizer=literal)(rows)
        fast = _value("seconds", net=_NET, optimizer="SFW singular")(rows)
        return None if slow is None or fast is None else slow / fast

    return found


def _over_rows(key: str, combine: Callable[[list[float]], float]) -> Callable[[Sequence[Row]], float | None]:
    return lambda rows: combine([row[key] for row in rows]) if rows else None


def _share(view: str, setting: str, bound: float) -> Target:
    found = _value("share", net=_NET, setting=setting, optimizer=f"SFW {view}")
    text = f"SFW {view}, share of a ResNet-18 training step at batch 128, {setting}"
    return Target(text, "share", found, bound, most=True, write=tables.percent)


def _step(view: str) -> Target:
    found = _value("over_sgd", net=_NET, optimizer=f"SFW {view}")
    text = f"SFW {view}, step over SGD's foreach step, ResNet-18"
    return Target(text, "step", found, 2.5, most=True, write=tables.times)


def _speed(name: str, literal: str, bound: float) -> Target:
    text = f"SFW singular, times faster than {name}, ResNet-18"
    return Target(text, "step", _faster_than(literal), bound, most=False, write=tables.times)


def _cut(batch: int) -> Target:
    found = _value("kept", net=_NET, cut="filters", batch=batch)
    text = f"ResNet-18 at half of the MACs, filters, batch {batch}: speed-up over the ratio of MACs"
    return Target(text, "cut", found, 0.7, most=False, write=tables.percent)


def _sweep(text: str, key: str, combine: Callable[[list[float]], float], bound: float, *, most: bool) -> Target:
    write = tables.percent if most else tables.times
    return Target(f"a sweep, {text}, worst problem", "bcd", _over_rows(key, combine), bound, most=most, write=write)


TARGETS = (
    _step("filters"),
    _step("entries"),
    *(_share("filters", setting, 0.05) for setting in _ARITHMETIC),
    *(_share("entries", setting, 0.05) for setting in _ARITHMETIC),
    *(_share("singular", setting, 0.1) for setting in _ARITHMETIC),
    _speed("ten block power iterations", _BLOCK_POWER, 10.0),
    _speed("the full SVD", _FULL_SVD, 30.0),
    Target(
        "low rank: what a proximal map of the nuclear norm in every step adds to SGD, over what SFW adds, ResNet-18",
        "overhead", _value("over_sfw", net=_NET, method=EVERY_STEP), 3.0, most=False, write=tables.times,
    ),
    Target(
        "quality over a training run, mean of the worst layer", "quality", _over_rows("mean", min), 0.99,
        most=False, write=tables.digits,
    ),
    Target(
        "quality over a training run, minimum over layers and steps", "quality", _over_rows("minimum", min), 0.95,
        most=False, write=tables.digits,
    ),
    _cut(1),
    _cut(64),
    _sweep("flops over those of the published formulas", "flop_share", max, 0.5, most=True),
    _sweep("times faster than the published formulas", "ratio", min, 3.0, most=False),
)  # fmt: skip
