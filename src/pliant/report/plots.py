"""Plots: accuracy against what was removed, one panel a compressor, one colour a method."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
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


@dataclass(frozen=True)
class Axis:
    """What accuracy is drawn against."""

    title: str
    value: Callable[[Point], float]

    def moves(self, curves: Sequence[Curve]) -> bool:
        """Tell whether there is anything to draw against: pruning single weights leaves the sizes as they are."""
        values = [self.value(point) for curve in curves for point in curve.points]
        return len(values) == 1 or max(values) - min(values) > _FLAT


@dataclass(frozen=True)
class Repair:
    """What was done to a cut model before it was judged, and the line that shows it beside others."""

    title: str
    dash: Dash
    value: Callable[[Point], Spread | None]

    def found_in(self, curves: Sequence[Curve]) -> bool:
        """Tell whether any point has it."""
        return any(self.value(point) is not None for curve in curves for point in curve.points)


REPAIRS = (
    Repair("raw cut", "-", lambda point: point.raw),
    Repair("BatchNorm recalibrated", "--", lambda point: point.recalibrated),
    Repair("reconstructed", ":", lambda point: point.reconstructed),
)


@dataclass(frozen=True)
class Panel:
    """What one panel shows: a compressor's curves, of one kind of repair or of all."""

    axis: Axis
    compressor: str
    repairs: tuple[Repair, ...]

    @property
    def title(self) -> str:
        """The compressor, and the repair where the panel shows one of several."""
        return self.compressor if self.repairs == REPAIRS else f"{self.compressor}, {self.repairs[0].title}"


_FLAT = 1e-3
REMOVED = Axis("removed", lambda point: point.fraction)
PARAMETERS = Axis("parameters left", lambda point: point.parameters)
MACS = Axis("MACs left", lambda point: point.macs)


def draw(path: Path, curves: Sequence[Curve], *, title: str, axes: Sequence[Axis] = (REMOVED,)) -> None:
    """Draw small multiples into a PNG file.

    Solid is the raw cut, dashed after BatchNorm recalibration, dotted after reconstruction; the line is the mean over
    seeds, the band their range. More methods than there are colours get panels of their own for these, and lines tell
    the methods apart.

    Args:
        path: the file.
        curves: of one or more methods and compressors, at least one.
        title: of the picture.
        axes: with one, panels flow over the columns; with several, each has a row of its own.

    Raises:
        ValueError: there is no curve to draw.
    """
    if not curves:
        raise ValueError("curves must hold at least one curve, found none; run pliant sweep first")
    methods = list(dict.fromkeys(curve.method for curve in curves))
    shown = _panels(curves, axes, crowded=len(methods) > len(_COLOURS))
    columns = len(shown) // len(axes) if len(axes) > 1 else min(_COLUMNS, len(shown))
    figure, panels = _grid(len(shown), columns)
    for panel, content in zip(panels, shown, strict=False):
        _panel(panel, content, [curve for curve in curves if curve.compressor == content.compressor], methods)
    figure.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold")
    handles = _legend(methods, curves)
    room = int(figure.get_figwidth() / (0.6 + 0.085 * max(len(str(handle.get_label())) for handle in handles)))
    ncols = min(len(handles), max(1, room))
    figure.legend(handles=handles, loc="outside lower center", ncols=ncols, frameon=False, fontsize=9)
    figure.savefig(path, dpi=150)


def _grid(count: int, columns: int) -> tuple[Figure, Any]:
    rows = math.ceil(count / columns)
    figure = Figure(figsize=(max(columns, 1.6) * _PANEL[0], rows * _PANEL[1] + 1.1), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(rows, columns, squeeze=False, sharey=True).flatten()
    for panel in panels[count:]:
        panel.set_visible(False)
    for panel in panels[::columns]:
        panel.set_ylabel("accuracy")
    return figure, panels


def _panels(curves: Sequence[Curve], axes: Sequence[Axis], *, crowded: bool) -> list[Panel]:
    compressors = list(dict.fromkeys(curve.compressor for curve in curves))
    repairs = [repair for repair in REPAIRS if repair.found_in(curves)]
    if not crowded or len(repairs) == 1:
        return [Panel(axis, name, REPAIRS) for axis in axes for name in compressors]
    return [Panel(axis, name, (repair,)) for axis in axes for name in compressors for repair in repairs]


def _panel(panel: Any, content: Panel, curves: Sequence[Curve], methods: Sequence[str]) -> None:  # noqa: ANN401  (matplotlib has no types)
    axis = content.axis
    if not axis.moves(curves):
        panel.text(0.5, 0.5, "stays the same", ha="center", color="#666666", fontsize=9)
    for curve in curves if axis.moves(curves) else ():
        colour, dash = _look(methods.index(curve.method))
        for repair in content.repairs:
            found = [(axis.value(point), repair.value(point)) for point in curve.points]
            known = [(x, spread) for x, spread in found if spread is not None]
            if known:
                _line(panel, known, colour, repair.dash if len(content.repairs) > 1 else dash)
    panel.set_title(content.title, fontsize=10, loc="left")
    panel.set_xlabel(axis.title, fontsize=9)
    panel.set_xlim(-0.03, 1.03)
    panel.set_ylim(0, 1.02)
    panel.xaxis.set_major_formatter(PercentFormatter(1))
    panel.yaxis.set_major_formatter(PercentFormatter(1))
    panel.tick_params(labelsize=8, length=2)
    panel.grid(visible=True, color="#dddddd", linewidth=0.6)
    for side in ("top", "right"):
        panel.spines[side].set_visible(False)


def _look(index: int) -> tuple[str, Dash]:
    """Return the colour and the line of a method."""
    return _COLOURS[index % len(_COLOURS)], _DASHES[index // len(_COLOURS) % len(_DASHES)]


def _line(panel: Any, pairs: Sequence[tuple[float, Spread]], colour: str, style: Dash) -> None:  # noqa: ANN401  (see above)
    known = sorted(pairs, key=lambda pair: pair[0])
    xs = [x for x, _ in known]
    panel.plot(xs, [s.mean for _, s in known], color=colour, linestyle=style, linewidth=1.7, marker="o", markersize=2.6)
    if any(s.count > 1 for _, s in known):
        panel.fill_between(xs, [s.low for _, s in known], [s.high for _, s in known], color=colour, alpha=0.15, lw=0)


def _legend(methods: Sequence[str], curves: Sequence[Curve]) -> list[Line2D]:
    looks = [(method, *_look(index)) for index, method in enumerate(methods)]
    handles = [Line2D([], [], color=c, linestyle=dash, linewidth=2.5, label=name) for name, c, dash in looks]
    repairs = [repair for repair in REPAIRS if repair.found_in(curves)]
    if len(methods) <= len(_COLOURS) and len(repairs) > 1:
        handles += [Line2D([], [], color="#333333", linestyle=r.dash, label=r.title) for r in repairs]
    return handles
