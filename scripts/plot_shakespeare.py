"""The table and the picture of scripts/shakespeare.py, which calls it: perplexity against rank removed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from pliant import atomic
from pliant.report.curves import Spread

Rows = Sequence[Mapping]


def publish(folder: Path, rows: Rows, trials: Sequence[tuple[Mapping, float]], counted: Mapping[str, float]) -> None:
    """Write table.md and removed.png.

    Args:
        folder: where to.
        rows: of the best settings with every seed.
        trials: every trial, and the perplexity that stands for its score.
        counted: perplexities of models that only count.
    """
    curves = {method: curve_of(rows, method) for method in dict.fromkeys(row["method"] for row in rows)}
    settings = {row["method"]: row["settings"] for row in rows}
    seeds = sorted({row["seed"] for row in rows})
    lines = [f"Perplexity per byte on the test plays; mean over seeds {seeds} (range).", "", *_table(curves), ""]
    lines += [f"Models that only count: {', '.join(f'{name} {value:.2f}' for name, value in counted.items())}.", ""]
    lines += ["| trial | score on the held-out plays | chosen |", "|---|---|---|"]
    for about, score in trials:
        chosen = "yes" if settings[about["method"]] == about["settings"] else ""
        lines.append(f"| {about['method']}: {_spelled(about['settings'])} | {score:.3f} | {chosen} |")
    atomic.write_text(folder / "table.md", "\n".join(lines) + "\n")
    _draw(folder / "removed.png", curves, counted)


def curve_of(rows: Rows, method: str) -> dict[float, list[Mapping]]:
    """Return fraction -> the rows of all seeds."""
    own = [row for row in rows if row["method"] == method]
    return {fraction: [row for row in own if row["fraction"] == fraction] for fraction in _fractions(own)}


def _fractions(rows: Rows) -> list[float]:
    return sorted({row["fraction"] for row in rows})


def _spread(rows: Rows) -> Spread:
    return Spread.of([row["perplexity"] for row in rows])


def _table(curves: Mapping[str, Mapping[float, Rows]]) -> list[str]:
    fractions = list(next(iter(curves.values())))
    lines = [f"| rank removed | {' | '.join(f'{name} | MACs left' for name in curves)} |"]
    lines.append("|---|" + "---|---|" * len(curves))
    for fraction in fractions:
        cells = []
        for curve in curves.values():
            spread, rows = _spread(curve[fraction]), curve[fraction]
            share = sum(row["macs"] for row in rows) / sum(row["macs"] for row in curve[fractions[0]])
            cells.append(f"{spread.mean:.2f} ({spread.low:.2f} to {spread.high:.2f}) | {share:.0%}")
        lines.append(f"| {fraction:.0%} | {' | '.join(cells)} |")
    return lines


def _spelled(settings: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:g}" for name, value in settings.items())


def _draw(path: Path, curves: Mapping[str, Mapping[float, Rows]], counted: Mapping[str, float]) -> None:
    figure = Figure(figsize=(6.0, 4.0), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for method, curve in curves.items():
        spreads = [_spread(rows) for rows in curve.values()]
        x = [100 * fraction for fraction in curve]
        (line,) = axes.plot(x, [s.mean for s in spreads], marker="o", markersize=3, label=method)
        axes.fill_between(x, [s.low for s in spreads], [s.high for s in spreads], color=line.get_color(), alpha=0.2)
    for (name, value), style in zip(counted.items(), (":", "--"), strict=True):
        axes.axhline(value, color="#666666", linewidth=1, linestyle=style, label=name)
    axes.set_yscale("log")
    axes.set_xlabel("rank removed (%)")
    axes.set_ylabel("perplexity per byte, test plays")
    axes.grid(alpha=0.3, which="both")
    axes.legend(frameon=False)
    figure.savefig(path, dpi=130)
