"""Draw the pictures on top of results/README.md: one checkpoint a method, one cut each, least squares after it.

    python scripts/plot_headline.py

From the rows that the studies left in results/; nothing is trained or cut.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pliant.report.archive import read_records
from pliant.report.curves import Curve
from pliant.report.plots import RECONSTRUCTED, REMOVED, draw
from pliant.report.study import study

SPATIAL, FILTERS = "low-rank (scheme spatial) by MACs", "filters (score reconstruction) by MACs"
HALF = "both (score reconstruction, scheme spatial) by MACs"
_RESULTS = Path(__file__).resolve().parents[1] / "results"


@dataclass(frozen=True)
class Shown:
    """A line: where its rows are, and what it is called."""

    study: str
    method: str
    cut: str
    label: str


@dataclass(frozen=True)
class Picture:
    """A picture and its lines."""

    title: str
    lines: Sequence[Shown]


PICTURES: Mapping[str, Picture] = {
    "fashion-mnist": Picture(
        "Fashion-MNIST, cnn-4, eight epochs, three seeds",
        (
            Shown("split/fashion-mnist", "sgd-dense", SPATIAL, "dense SGD, spatial ranks"),
            Shown("split/fashion-mnist", "preset-low-rank", SPATIAL, "preset low-rank, spatial ranks"),
            Shown("split/fashion-mnist", "sgd-dense", HALF, "dense SGD, half and half"),
            Shown("split/fashion-mnist", "preset-low-rank", HALF, "preset low-rank, half and half"),
            Shown("cpu/fashion-mnist", "preset-filters", FILTERS, "preset filters, filters"),
            Shown("cpu/fashion-mnist", "low-rank", FILTERS, "SFW, spectral plan, filters"),
            Shown("cpu/fashion-mnist", "cram-filters", "filters by MACs", "CrAM, twice the gradients, filters by norm"),
            Shown("cpu/fashion-mnist", "nuclear", "low-rank by MACs", "nuclear norm, channel ranks"),
        ),
    ),
    "cifar10": Picture(
        "CIFAR-10, ResNet-20, eight epochs; three seeds of SGD and the presets, one of the others",
        (
            Shown("split/cifar10", "sgd-dense", SPATIAL, "dense SGD, spatial ranks"),
            Shown("split/cifar10", "preset-low-rank", SPATIAL, "preset low-rank, spatial ranks"),
            Shown("split/cifar10", "preset-filters", HALF, "preset filters, half and half"),
            Shown("cpu/cifar10", "lorita-2", SPATIAL, "LoRITa, spatial ranks"),
            Shown("cpu/cifar10", "spectral-decay", SPATIAL, "spectral decay, spatial ranks"),
            Shown("split/cifar10", "sfw-low-rank", FILTERS, "SFW, spectral plan, filters"),
            Shown("cpu/cifar10", "cram-filters", HALF, "CrAM, twice the gradients, half and half"),
        ),
    ),
    "cifar10-sixteen": Picture(
        "CIFAR-10, ResNet-20, 6,240 gradients; three seeds of SGD and the preset for ranks, one of the others",
        (
            Shown("cpu/cifar10", "sgd-dense-double", SPATIAL, "dense SGD, spatial ranks"),
            Shown("cpu/cifar10", "preset-low-rank-double", SPATIAL, "preset low-rank, spatial ranks"),
            Shown("cpu/cifar10", "preset-filters-double", FILTERS, "preset filters, filters"),
            Shown("cpu/cifar10", "cram-low-rank", SPATIAL, "CrAM for ranks, spatial ranks"),
            Shown("cpu/cifar10", "cram-filters", FILTERS, "CrAM for filters, filters"),
        ),
    ),
}


def main() -> None:
    """Draw all pictures."""
    against = replace(REMOVED, title="multiply-accumulates removed")
    for name, picture in PICTURES.items():
        curves = [curve_of(shown) for shown in picture.lines]
        target = _RESULTS / "one-checkpoint" / f"{name}.png"
        target.parent.mkdir(exist_ok=True)
        draw(target, curves, title=picture.title, axes=(against,), repairs=(RECONSTRUCTED,))


def curve_of(shown: Shown) -> Curve:
    """Return the curve of a line, from the rows of its study."""
    for entry in study(read_records(_RESULTS / shown.study)):
        for curve in entry.curves():
            if (entry.label, curve.compressor) == (shown.method, shown.cut):
                cuts = tuple(point for point in curve.points if point.fraction > 0)
                return replace(curve, method=shown.label, compressor="one checkpoint, any ratio", points=cuts)
    raise SystemExit(f"results/{shown.study} has no row of {shown.method} by {shown.cut!r}")


if __name__ == "__main__":
    main()
