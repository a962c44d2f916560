"""The report of a cut as text: an honest headline, the totals, the layers that changed, and what stayed and why."""

from __future__ import annotations

from collections.abc import Sequence

from pliant.compress.report import CompressionReport, LayerChange
from pliant.metrics.footprint import LayerSize

Row = tuple[str, ...]
_HEAD = ("", "before", "after", "change")
_LAYER_HEAD = ("layer", "parameters", "MACs", "bytes", "activation bytes")


def text(report: CompressionReport) -> str:
    """Return the whole report."""
    changed = [layer for layer in report.layers() if layer.before != layer.after]
    parts = [headline(report), _table([_HEAD, *_totals(report)]), *_measured(report)]
    if changed:
        parts.append(_table([_LAYER_HEAD, *map(_layer, changed)]))
    parts += [f"left dense  {name}: {reason}" for name, reason in report.left_dense.items()]
    parts += [f"skipped     {name}: {reason}" for name, reason in report.skipped.items()]
    return "\n".join(parts)


def headline(report: CompressionReport) -> str:
    """Say what became of the model in one line; where nothing got smaller, that comes first."""
    asked = "" if report.fraction is None else f", asked for {report.fraction:.1%}"
    asked = asked if report.budget is None else f", asked for {report.budget}"
    if not report.removed:
        return f"{report.compressor}: nothing was cut{asked}: {_reason(report) or 'every atom stays'}"
    if not report.smaller:
        reason = _reason(report) or "the layers keep their size"
        return (
            f"{report.compressor}: {report.removed:,} of {report.atoms:,} atoms are zero{asked}, "
            f"but nothing got smaller: {reason}"
        )
    zeros = f" ({report.zeros:,} of them are zeros in layers that kept their size)" if report.zeros else ""
    return (
        f"{report.compressor}: {report.removed:,} of {report.atoms:,} atoms ({report.removed_fraction:.1%}) removed"
        f"{asked}{zeros}: {change(report.before.parameters, report.after.parameters)} parameters, "
        f"{change(report.before.macs, report.after.macs)} MACs"
    )


def change(before: float, after: float) -> str:
    """Return a change in per cent with its sign.

    >>> change(200, 100), change(100, 110), change(0, 0)
    ('-50.0%', '+10.0%', '+0.0%')
    """
    return f"{after / before - 1 if before else 0.0:+.1%}"


def _reason(report: CompressionReport) -> str:
    """Return the first reason, and how many more there are."""
    reasons = list(dict.fromkeys([*report.left_dense.values(), *report.skipped.values()]))
    more = f" (and {len(reasons) - 1} more reasons below)" if len(reasons) > 1 else ""
    return f"{reasons[0]}{more}" if reasons else ""


def _totals(report: CompressionReport) -> list[Row]:
    before, after = report.before, report.after
    rows = [
        _row("parameters", before.parameters, after.parameters),
        _row("non-zero", before.nonzero, after.nonzero),
        _row("MACs", before.macs, after.macs),
        _row("bytes", before.bytes, after.bytes),
        _row("activations, bytes", before.activations, after.activations),
        _row("  most at once", before.peak_activations, after.peak_activations),
    ]
    if before.latency is not None and after.latency is not None:
        first, second = before.latency.median, after.latency.median
        rows.append(("latency", f"{1e3 * first:.3g} ms", f"{1e3 * second:.3g} ms", change(first, second)))
    return rows


def _row(name: str, before: int, after: int) -> Row:
    return (name, f"{before:,}", f"{after:,}", change(before, after))


def _measured(report: CompressionReport) -> list[str]:
    before, after = report.before.latency, report.after.latency
    lines = [] if before is None or after is None else [f"latency before: {before}", f"latency after:  {after}"]
    if report.macs != report.predicted_macs:
        lines.append(f"MACs predicted before the repair: {report.predicted_macs:,}; they depend on the data")
    return [*lines, f"largest difference to the truncated model's outputs: {report.relative_difference:.2e} relative"]


def _layer(layer: LayerChange) -> Row:
    fields = ("parameters", "macs", "bytes", "activations")
    return (layer.name or "(the model itself)", *(_arrow(layer.before, layer.after, field) for field in fields))


def _arrow(before: LayerSize, after: LayerSize, field: str) -> str:
    first, second = getattr(before, field), getattr(after, field)
    return f"{first:,}" if first == second else f"{first:,} -> {second:,}"


def _table(rows: Sequence[Row]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(cell.rjust(w) if i else cell.ljust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True)))
        for row in rows
    ]
    return "\n".join(line.rstrip() for line in lines)
