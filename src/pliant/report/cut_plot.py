"""The report of a cut as a picture: every layer before and after."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from pliant.compress.report import CompressionReport, LayerChange
from pliant.metrics.footprint import LayerSize
from pliant.report.cut_text import headline

_BEFORE, _AFTER = "#BBBBBB", "#0072B2"
_MOST = 60  # bars that one picture can hold; beyond, the smallest layers share the last one
_PANELS: tuple[tuple[str, Callable[[LayerSize], int]], ...] = (
    ("parameters", lambda size: size.parameters),
    ("MACs", lambda size: size.macs),
    ("activation bytes", lambda size: size.activations),
)


def draw(path: Path, report: CompressionReport) -> None:
    """Draw a panel each for parameters, MACs and activations, a pair of bars a layer.

    Args:
        path: of the PNG file.
        report: of the cut.
    """
    rows = _gathered([row for row in report.layers() if row.before.parameters or row.before.macs])
    figure = Figure(figsize=(11, 1.9 + 0.26 * len(rows)), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(_PANELS), sharey=True)
    for panel, (title, value) in zip(panels, _PANELS, strict=True):
        _panel(panel, title, [value(row.before) for row in rows], [value(row.after) for row in rows])
    panels[0].set_yticks(range(len(rows)), [row.name or "(the model itself)" for row in rows], fontsize=8)
    panels[0].invert_yaxis()
    figure.suptitle(headline(report), x=0.01, ha="left", fontsize=10, wrap=True)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    figure.savefig(path, dpi=130, format="png")


def _gathered(rows: Sequence[LayerChange]) -> list[LayerChange]:
    """Keep the largest layers in their order, and add the others up."""
    if len(rows) <= _MOST:
        return list(rows)
    by_size = sorted(rows, key=lambda row: row.before.parameters + row.before.macs, reverse=True)
    shown, rest = set(map(id, by_size[: _MOST - 1])), by_size[_MOST - 1 :]
    before, after = (sum((getattr(row, side) for row in rest), LayerSize()) for side in ("before", "after"))
    return [row for row in rows if id(row) in shown] + [LayerChange(f"{len(rest)} smaller layers", before, after)]


def _panel(panel: Any, title: str, before: Sequence[int], after: Sequence[int]) -> None:  # noqa: ANN401  (matplotlib has no types)
    places = range(len(before))
    panel.barh([place - 0.2 for place in places], before, height=0.4, color=_BEFORE, label="before")
    panel.barh([place + 0.2 for place in places], after, height=0.4, color=_AFTER, label="after")
    panel.set_title(title, fontsize=10, loc="left")
    panel.xaxis.set_major_formatter(EngFormatter(sep=""))
    panel.tick_params(labelsize=8, length=2)
    panel.grid(visible=True, axis="x", color="#dddddd", linewidth=0.6)
    panel.set_axisbelow(True)
    for side in ("top", "right"):
        panel.spines[side].set_visible(False)
