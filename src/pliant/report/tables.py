"""Tables: the same cells for the terminal (Rich) and for the disk (Markdown)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rich.table import Table as RichTable

from pliant.methods.claim import Claim
from pliant.report.curves import Curve, Point, Spread
from pliant.report.study import Entry


@dataclass(frozen=True)
class Table:
    """Cells of text: the first column is left-aligned, the others right-aligned."""

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def to_rich(self) -> RichTable:
        """Return the table for a Rich console."""
        table = RichTable(title=self.title, title_justify="left", title_style="bold")
        for index, name in enumerate(self.head):
            table.add_column(name, justify="right" if index else "left", overflow="fold")
        for row in self.rows:
            table.add_row(*row)
        return table

    def to_markdown(self) -> str:
        """Return the table as Markdown, columns lined up."""
        cells = [[cell.replace("|", "\\|") for cell in row] for row in (self.head, *self.rows)]
        widths = [max(len(row[i]) for row in cells) for i in range(len(self.head))]
        lines = [_line(row, widths) for row in cells]
        rule = "|" + "|".join("-" * (w + 1) + (":" if i else "-") for i, w in enumerate(widths)) + "|"
        return "\n".join([f"### {self.title}", "", lines[0], rule, *lines[1:], ""])


def run_tables(curves: Sequence[Curve]) -> list[Table]:
    """A table a compressor, a row a fraction: removed atoms, accuracy, parameters and MACs left, all in per cent.

    The title has the numbers of images of the repairs.
    """
    return [_run_table(curve) for curve in curves]


def study_tables(entries: Sequence[Entry], fractions: Sequence[float] | None = None) -> list[Table]:
    """A table a compressor and class: a row a method, a column a fraction, accuracies as `change` puts them.

    Methods of different classes share no table, since their curves do not cost the same number of runs. The head of a
    column is the fraction that was asked for, and the range of what went where that is more than a point off.

    Args:
        entries: the methods.
        fractions: those shown; None: all that any method has.
    """
    curves = [(entry, curve) for entry in entries for curve in entry.curves()]
    kinds = dict.fromkeys((c.compressor, claim) for _, c in curves for claim in Claim)
    parts = [
        (name, claim, [(e, c) for e, c in curves if (c.compressor, e.claim) == (name, claim)]) for name, claim in kinds
    ]
    return [_compressor_table(name, claim, part, fractions) for name, claim, part in parts if part]


def brief(entries: Sequence[Entry]) -> list[float]:
    """Choose at most four fractions that fit a terminal: 30, 50, 70 and 90 %, or evenly spaced ones."""
    known = sorted({point.fraction for entry in entries for curve in entry.curves() for point in curve.points})
    usual = [fraction for fraction in known if fraction in _USUAL]
    return usual or known[:: max(1, -(-len(known) // len(_USUAL)))]


_USUAL = (0.3, 0.5, 0.7, 0.9)


def dense_table(entries: Sequence[Entry]) -> Table:
    """A row a method: class, cost, seeds, accuracy of the uncut models, training time."""
    head = ("method", *_COST, "seeds", "accuracy", "training")
    rows = [
        (e.label, *_cost(e), ", ".join(map(str, e.seeds)), percent(e.dense), f"{e.seconds.mean:.0f} s") for e in entries
    ]
    return Table("Trained models, before any cut", head, tuple(rows))


def percent(spread: Spread) -> str:
    """Return a mean in per cent, with half the range where there are several seeds: "97.1" or "97.1 ±0.4"."""
    text = f"{100 * spread.mean:.1f}"
    return text if spread.count == 1 else f"{text} ±{50 * (spread.high - spread.low):.1f}"


def change(point: Point | None) -> str:
    """Return "raw → recalibrated → reconstructed" in per cent up to the last that is known, or a dash for no point.

    A step that is missing in between is a dash; where not all seeds of the curve have the cut, their number follows.
    """
    if point is None:
        return "-"
    steps = [point.raw, point.recalibrated, point.reconstructed]
    while steps[-1] is None:
        steps.pop()
    return " → ".join(map(_known, steps)) + _share(point)


def _known(spread: Spread | None) -> str:
    return "-" if spread is None else percent(spread)


def _share(point: Point) -> str:
    return "" if point.whole else f" ({point.raw.count} of {point.seeds})"


def _compressor_table(
    name: str, claim: Claim, curves: Sequence[tuple[Entry, Curve]], fractions: Sequence[float] | None
) -> Table:
    shown = fractions or sorted({point.fraction for _, curve in curves for point in curve.points})
    rows = [(e.label, *_cost(e), percent(e.dense), *(change(curve.at(f)) for f in shown)) for e, curve in curves]
    columns = [[point for _, curve in curves if (point := curve.at(fraction))] for fraction in shown]
    head = ("method", *_COST, "dense", *map(_asked, shown, columns))
    points = [point for column in columns for point in column]
    rebuilt = any(point.reconstructed for point in points)
    steps = ["raw", "recalibrated" + _images(point.calibrate for point in points)]
    steps += ["reconstructed" + _images(point.reconstruct for point in points)] if rebuilt else []
    return Table(f"{name}, {claim}: accuracy (%), {' → '.join(steps)}, by what was to be removed", head, tuple(rows))


def _asked(fraction: float, points: Sequence[Point]) -> str:
    """Return what was asked for, and what went instead where that is more than a point away from it."""
    went = [point.went for point in points]
    if all(abs(share - fraction) <= _POINT for share in went):
        return f"{fraction:.0%}"
    ends = dict.fromkeys((f"{100 * min(went):.1f}", f"{100 * max(went):.1f}"))
    return f"{fraction:.0%} ({'-'.join(ends)}% went)"


_POINT = 0.01 + 1e-9


def _images(counts: Iterable[int]) -> str:
    """Return how many images a repair saw, as far as rows say so."""
    known = sorted(set(counts) - {0})
    return f" ({' or '.join(f'{count:,}' for count in known)} images)" if known else ""


_COST = ("class", "runs a curve", "gradients")


def _cost(entry: Entry) -> tuple[str, str, str]:
    """What makes methods comparable or not: the class, the runs behind a curve, the gradients of a run."""
    gradients = "-" if entry.gradients is None else f"{entry.gradients.mean:,.0f}"
    return str(entry.claim), entry.claim.runs, gradients


def _run_table(curve: Curve) -> Table:
    points = curve.points
    rebuilt = any(point.reconstructed for point in points)
    seen = {"recalibrated": [p.calibrate for p in points], "reconstructed": [p.reconstruct for p in points]}
    repairs = [name + images for name, counts in seen.items() if (images := _images(counts))]
    title = curve.compressor + (f": {', '.join(repairs)}" if repairs else "")
    head = ("asked", "removed", "raw", "recalibrated", *(["reconstructed"] if rebuilt else []), "parameters", "MACs")
    return Table(title, head, tuple(_run_row(point, rebuilt=rebuilt) for point in points))


def _run_row(point: Point, *, rebuilt: bool) -> tuple[str, ...]:
    steps = [point.raw, point.recalibrated, *([point.reconstructed] if rebuilt else [])]
    after = ["-" if spread is None else percent(spread) + _share(point) for spread in steps]
    sizes = (f"{100 * point.parameters:.1f}", f"{100 * point.macs:.1f}")
    return (f"{point.fraction:.0%}", f"{point.removed:.1%}", *after, *sizes)


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    padded = [
        cell.rjust(width) if index else cell.ljust(width)
        for index, (cell, width) in enumerate(zip(cells, widths, strict=True))
    ]
    return "| " + " | ".join(padded) + " |"
