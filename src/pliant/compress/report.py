"""CompressionReport: what a cut did, in total and layer by layer, as text, JSON and picture."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pliant.compress.budgets.record import BudgetRecord
from pliant.metrics.footprint import Footprint, LayerSize

SCHEMA = 2  # 1 did not know budgets


@dataclass(frozen=True)
class LayerChange:
    """One layer before and after a cut; what replaced it counts as the layer.

    Args:
        name: qualified, in the model before the cut; "" is what the model itself does outside of its modules.
        before: its size.
        after: the sizes of all modules in its place together.
    """

    name: str
    before: LayerSize
    after: LayerSize


@dataclass(frozen=True)
class CompressionReport:
    """What a cut did.

    Args:
        compressor: class name.
        fraction: fraction asked for, or None.
        atoms: that the compressor could choose from (filters, singular values, weights).
        removed: how many of them are gone, as zeros or physically.
        zeros: how many of these are zeros in a layer that kept its size.
        before: what the model cost.
        after: what the realised model costs.
        predicted_parameters: what the cut said beforehand.
        predicted_macs: what the cut said beforehand; another number than `macs` only where the work depends on the data
            and repaired weights call for more or less of it.
        max_difference: largest absolute difference between the outputs of the truncated and the realised model on the
            example, in evaluation mode.
        relative_difference: the same divided by the largest absolute output.
        repaired: whether channels got back the mean and spread that they had.
        recalibrated: whether running statistics were recomputed.
        skipped: name -> why it was not cut.
        left_dense: layer name -> why its removed atoms are zeros in a layer of the old size.
        budget: the budget asked for, and what was reached by the realised model; None if there was none.
        reconstructed: whether layers were fitted to what they computed before the cut.
    """

    compressor: str
    fraction: float | None
    atoms: int
    removed: int
    zeros: int
    before: Footprint
    after: Footprint
    predicted_parameters: int
    predicted_macs: int
    max_difference: float
    relative_difference: float
    repaired: bool
    recalibrated: bool
    skipped: Mapping[str, str]
    left_dense: Mapping[str, str]
    budget: BudgetRecord | None = None
    reconstructed: bool = False

    @property
    def removed_fraction(self) -> float:
        """Share of the atoms that is gone; 0 if there were none."""
        return self.removed / self.atoms if self.atoms else 0.0

    @property
    def parameters(self) -> int:
        """Parameters of the realised model."""
        return self.after.parameters

    @property
    def macs(self) -> int:
        """Multiply-accumulates of the realised model on the example."""
        return self.after.macs

    @property
    def bytes(self) -> int:
        """Bytes of the realised model's parameters and buffers."""
        return self.after.bytes

    @property
    def nonzero(self) -> int:
        """Parameters of the realised model that are not zero."""
        return self.after.nonzero

    @property
    def dense_parameters(self) -> int:
        """Parameters before the cut."""
        return self.before.parameters

    @property
    def dense_macs(self) -> int:
        """Multiply-accumulates before the cut."""
        return self.before.macs

    @property
    def smaller(self) -> bool:
        """Whether the realised model has fewer parameters or fewer MACs than the model before the cut."""
        return self.after.parameters < self.before.parameters or self.after.macs < self.before.macs

    def layers(self) -> list[LayerChange]:
        """Return every layer that costs anything, in the model's order; the rows add up to the totals."""
        after = dict.fromkeys(self.before.layers, LayerSize())
        for name, size in self.after.layers.items():
            home = _home(name, after)
            after[home] += size
        rows = [LayerChange(name, size, after[name]) for name, size in self.before.layers.items()]
        return [row for row in rows if {row.before, row.after} != {LayerSize()}]

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain data, for JSON."""
        data = {"schema": SCHEMA} | asdict(self) | {"removed_fraction": self.removed_fraction, "smaller": self.smaller}
        for side in ("before", "after"):
            del data[side]["layers"]
        return data | {"layers": [asdict(layer) for layer in self.layers()]}

    def to_json(self) -> str:
        """Return the report as JSON text."""
        return json.dumps(self.to_dict(), indent=2, allow_nan=False)

    def plot(self, path: str | Path) -> None:
        """Draw every layer before and after the cut into a PNG file.

        Raises:
            ImportError: without matplotlib, which is in the extra `pliant[plot]`.
        """
        try:
            from pliant.report.cut_plot import draw  # noqa: PLC0415  (matplotlib is optional)
        except ImportError as error:
            raise ImportError(f"a picture needs matplotlib: pip install 'pliant[plot]' ({error})") from error
        draw(Path(path), self)

    def __str__(self) -> str:
        from pliant.report.cut_text import text  # noqa: PLC0415  (it imports this module)

        return text(self)


def _home(name: str, layers: Mapping[str, LayerSize]) -> str:
    """Return the layer that a module of the realised model stands for: its nearest ancestor before the cut."""
    while name not in layers:
        name = name.rpartition(".")[0]
    return name
