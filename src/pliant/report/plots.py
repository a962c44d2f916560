"""Plots: accuracy against what was removed, one panel a compressor, one colour a method."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import PercentFormatter

from pliant.report.curves import Curve, Point, Spread

Dash = Literal["-", "--", ":", "-."]

# Okabe and Ito's palette, told apart by colour-blind readers too; the black is kept for text.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#666666")
_DASHES: tuple[Dash, ...] = ("-", "--", ":", "-.")
_PANEL = (3.9, 3.0)
_COLUMNS = 3
_TITLE = 44  # letters in a line of a panel's title
_FAR = 0.25  # an accuracy above which the axis need not begin at zero
_MARGIN = 0.03
_LINE = 0.2  # inches of a line of the legend or the title


@dataclass(frozen=True)
class Axis:
    """What accuracy is drawn against, and where the uncut model is on it."""

    title: str
    value: Callable[[Point], float]
    whole: float


@dataclass(frozen=True)
class Repair:
    """What was done to a cut model before it was judged, and the line that shows it beside others."""

    title: str
    dash: Dash
    value: Callable[[Point], Spread | None]

    def found_in(self, curves: Sequence[Curve]) -> bool:
        """Tell whether any cut has it; a model of which nothing is removed is no cut."""
        return any(self.value(point) is not None for curve in curves for point in curve.points if point.fraction > 0)


RAW = Repair("raw cut", "-", lambda point: point.raw)
RECALIBRATED = Repair("BatchNorm recalibrated", "--", lambda point: point.recalibrated)
RECONSTRUCTED = Repair("reconstructed", ":", lambda point: point.reconstructed)
REPAIRS = (RAW, RECALIBRATED, RECONSTRUCTED)


@dataclass(frozen=True)
class Mark:
    """Where an accuracy is drawn; `whole` tells whether it is over all seeds of its curve."""

    place: float
    accuracy: Spread
    whole: bool = True


@dataclass(frozen=True)
class Panel:
    """What one panel shows: a compressor's curves, of one kind of repair or of all."""

    axis: Axis
    compressor: str
    repairs: tuple[Repair, ...]

    @property
    def title(self) -> str:
        """The compressor, and the repair where the panel shows one of several; short lines."""
        lines = textwrap.wrap(self.compressor, _TITLE)
        return "\n".join([*lines, *(repair.title for repair in self.repairs if len(self.repairs) == 1)])

    def lines(self, curve: Curve) -> Iterator[tuple[Repair, list[Mark]]]:
        """Yield what to draw of a curve, from the uncut model on where it is known."""
        for repair in self.repairs:
            found = [(point, repair.value(point)) for point in curve.points]
            known = [Mark(self.axis.value(point), spread, point.whole) for point, spread in found if spread is not None]
            starts = any(point.fraction == 0 and spread is not None for point, spread in found)
            if known and repair.found_in([curve]) and curve.dense is not None and not starts:
                known.append(Mark(self.axis.whole, curve.dense))
            if known:
                yield repair, sorted(known, key=lambda mark: mark.place)


_FLAT = 1e-3
REMOVED = Axis("removed", lambda point: point.went, whole=0.0)
PARAMETERS = Axis("parameters left", lambda point: point.parameters, whole=1.0)
MACS = Axis("MACs left", lambda point: point.macs, whole=1.0)


def draw(
    path: Path,
    curves: Sequence[Curve],
    *,
    title: str,
    axes: Sequence[Axis] = (REMOVED,),
    repairs: tuple[Repair, ...] = REPAIRS,
) -> None:
    """Draw small multiples into a PNG file.

    Solid is the raw cut, dashed after BatchNorm recalibration, dotted after reconstruction; the line is the mean over
    seeds, the band their range. A point is hollow and outside the band if not all seeds of the curve have it. A curve
    begins at the uncut model where that is known. Where something was reconstructed, or with more methods than there
    are colours, each repair has panels of its own, and lines tell the methods apart. Accuracy begins at zero unless
    even the worst is above a quarter.

    Args:
        path: the file.
        curves: of one or more methods and compressors, at least one.
        title: of the picture.
        axes: with one, panels flow over the columns; with several, each has a row of its own.
        repairs: those shown; what no cut has is left out.

    Raises:
        ValueError: there is no curve to draw.
    """
    if not curves:
        raise ValueError("curves must hold at least one curve, found none; run pliant sweep first")
    methods = list(dict.fromkeys(curve.method for curve in curves))
    shown = _panels(curves, axes, repairs, many=len(methods) > len(_COLOURS))
    alone = len(shown[0].repairs) == 1
    figure, panels = _grid(len(shown), _columns(shown, axes), share="col" if alone else "all")
    for panel, content in zip(panels, shown, strict=False):
        _panel(panel, content, [curve for curve in curves if curve.compressor == content.compressor], methods)
        panel.set_xlim(*_span(content.axis, shown, curves))
        panel.set_ylim(*_limits(content.repairs, shown, curves))
    width = figure.get_figwidth()
    heading = textwrap.fill(title, int(10 * width))
    figure.suptitle(heading, x=0.01, ha="left", fontsize=12, fontweight="bold")
    handles = _legend(methods, [] if alone else [repair for repair in repairs if repair.found_in(curves)])
    handles += _HOLLOW if any(not point.whole for curve in curves for point in curve.points) else []
    room = int(width / (0.6 + 0.085 * max(len(str(handle.get_label())) for handle in handles)))
    ncols = min(len(handles), max(1, room))
    figure.legend(handles=handles, loc="outside lower center", ncols=ncols, frameon=False, fontsize=9)
    lines = math.ceil(len(handles) / ncols) + heading.count("\n")
    figure.set_figheight(figure.get_figheight() + _LINE * lines)
    figure.savefig(path, dpi=150)


def _columns(panels: Sequence[Panel], axes: Sequence[Axis]) -> int:
    """Several axes or repairs side by side have rows and columns of their own; otherwise panels flow."""
    if len(axes) > 1:
        return len(panels) // len(axes)
    kinds = len({panel.repairs for panel in panels})
    return kinds if kinds > 1 else min(_COLUMNS, len(panels))


def _grid(count: int, columns: int, *, share: Literal["all", "col"]) -> tuple[Figure, Any]:
    rows = math.ceil(count / columns)
    figure = Figure(figsize=(max(columns, 1.6) * _PANEL[0], rows * _PANEL[1] + 0.5), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(rows, columns, squeeze=False, sharey=share).flatten()
    for panel in panels[count:]:
        panel.set_visible(False)
    for panel in panels[::columns]:
        panel.set_ylabel("accuracy")
    return figure, panels


def _panels(curves: Sequence[Curve], axes: Sequence[Axis], repairs: tuple[Repair, ...], *, many: bool) -> list[Panel]:
    compressors = list(dict.fromkeys(curve.compressor for curve in curves))
    found = [repair for repair in repairs if repair.found_in(curves)]
    apart = many or (len(axes) == 1 and RECONSTRUCTED in found)  # reconstruction lies close together, and far from raw
    kinds = [(repair,) for repair in found] if found and apart else [repairs]
    return [Panel(axis, name, kind) for axis in axes for name in compressors for kind in kinds]


def _panel(panel: Any, content: Panel, curves: Sequence[Curve], methods: Sequence[str]) -> None:  # noqa: ANN401  (matplotlib has no types)
    lines = [(curve, repair, marks) for curve in curves for repair, marks in content.lines(curve)]
    places = [mark.place for _, _, marks in lines for mark in marks]
    cuts = any(repair.found_in(curves) for repair in content.repairs)
    flat = any(len(marks) > 1 for _, _, marks in lines) and max(places) - min(places) <= _FLAT
    if not cuts or flat:
        panel.text(0.5, 0.5, "stays the same" if cuts else "not measured", ha="center", va="center", color="#666666",
                   fontsize=9, transform=panel.transAxes)  # fmt: skip
    else:
        for curve, repair, marks in lines:
            colour, dash = _look(methods.index(curve.method))
            _line(panel, marks, colour, repair.dash if len(content.repairs) > 1 else dash)
    panel.set_title(content.title, fontsize=10, loc="left")
    panel.set_xlabel(content.axis.title, fontsize=9)
    panel.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    panel.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    panel.tick_params(labelsize=8, length=2)
    panel.grid(visible=True, color="#dddddd", linewidth=0.6)
    for side in ("top", "right"):
        panel.spines[side].set_visible(False)


def _span(axis: Axis, panels: Sequence[Panel], curves: Sequence[Curve]) -> tuple[float, float]:
    """Return the range of an axis, the same in all of its panels."""
    places = [mark.place for panel in panels if panel.axis == axis for mark in _marks(panel, curves)]
    return min(places) - _MARGIN, max(places) + _MARGIN


def _limits(repairs: tuple[Repair, ...], panels: Sequence[Panel], curves: Sequence[Curve]) -> tuple[float, float]:
    """Return the range of accuracies that panels of a repair share: from zero, unless even the worst is far from it."""
    spreads = [mark.accuracy for panel in panels if panel.repairs == repairs for mark in _marks(panel, curves)]
    low, high = min(spread.low for spread in spreads), max(spread.high for spread in spreads)
    bottom = 0.0 if low < _FAR else math.floor(50 * low - 0.5) / 50
    return bottom, min(1.02, high + 0.04 * (high - bottom) + 1e-3)


def _marks(panel: Panel, curves: Sequence[Curve]) -> Iterator[Mark]:
    """Yield all that a panel shows."""
    for curve in curves:
        if curve.compressor == panel.compressor:
            for _, marks in panel.lines(curve):
                yield from marks


def _look(index: int) -> tuple[str, Dash]:
    """Return the colour and the line of a method."""
    return _COLOURS[index % len(_COLOURS)], _DASHES[index // len(_COLOURS) % len(_DASHES)]


def _line(panel: Any, marks: Sequence[Mark], colour: str, style: Dash) -> None:  # noqa: ANN401  (see above)
    places, means = [mark.place for mark in marks], [mark.accuracy.mean for mark in marks]
    panel.plot(places, means, color=colour, linestyle=style, linewidth=1.7, marker="o", markersize=2.6)
    if few := [mark for mark in marks if not mark.whole]:
        hollow = {"color": colour, "markerfacecolor": "white", "marker": "o", "markersize": 4.0, "linestyle": "none"}
        panel.plot([mark.place for mark in few], [mark.accuracy.mean for mark in few], **hollow)
    if any(mark.accuracy.count > 1 for mark in marks):
        low, high = [mark.accuracy.low for mark in marks], [mark.accuracy.high for mark in marks]
        panel.fill_between(places, low, high, where=[mark.whole for mark in marks], color=colour, alpha=0.15, lw=0)


def _legend(methods: Sequence[str], repairs: Sequence[Repair]) -> list[Line2D]:
    looks = [(method, *_look(index)) for index, method in enumerate(methods)]
    handles = [Line2D([], [], color=c, linestyle=dash, linewidth=2.5, label=name) for name, c, dash in looks]
    if len(repairs) > 1:
        handles += [Line2D([], [], color="#333333", linestyle=r.dash, label=r.title) for r in repairs]
    return handles


_HOLLOW = [
    Line2D([], [], color="#333333", linestyle="none", marker="o", markerfacecolor="white", label="not all seeds")
]
