"""LatencyTarget: the time of a call as a budget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from torch import nn

from pliant.compress.budgets.allocation import Allocation, BudgetError, Greedy
from pliant.compress.budgets.budget import Budget, check_target
from pliant.compress.budgets.latency_table import LatencyTable, LayerTimes
from pliant.compress.budgets.problem import Counted, Counts, Numbers, Term
from pliant.compress.budgets.scene import Scene
from pliant.compress.budgets.terms import Weight, matrices, pays
from pliant.regions.axes import Axes
from pliant.structure.example import Example
from pliant.structure.matricise import axes_in, axes_of


@dataclass(frozen=True)
class LatencyTarget(Budget):
    """The time of one call on the example, as a table of measured layers predicts it.

    Whether the cut model keeps to it is to be measured: `compress(..., latency=True)`.

    Args:
        target: a share of the time before the cut, 0 < target <= 1, or a whole number of microseconds.
        table: measured on the model that is to be cut.
        allocation: how the budget is shared out over the layers.

    Raises:
        BudgetError: if the target is neither.
    """

    target: float | int
    table: LatencyTable = field(repr=False)
    allocation: Allocation = field(default_factory=Greedy)

    def __post_init__(self) -> None:
        check_target("latency", self.target)

    def measure(self, model: nn.Module, example: Example) -> float:  # noqa: ARG002  (the interface)
        return self.table.predict(model)

    def limit(self, dense: float) -> float:
        return 1e-6 * self.target if isinstance(self.target, int) else self.target * dense

    def terms(self, scene: Scene) -> list[Term]:
        found: list[Term] = []
        for weight in scene.weights:
            if weight.uses and weight.knobs:
                name = weight.name.rpartition(".")[0]
                if name not in self.table.layers:
                    raise BudgetError(f"the latency table must know the layer {name!r}: measure it on this model")
                layer = scene.model.get_submodule(name)
                if weight.split is not None and weight.split.axes != axes_in(self.table.scheme, layer):
                    wanted = scene.ranks.scheme
                    raise BudgetError(
                        f"the latency table must know the layer {name!r} in two by {wanted}, it knows it by "
                        f"{self.table.scheme}: measure it with ranks=True, scheme={wanted}"
                    )
                axes = axes_of(layer, "weight")
                found.append(LatencyTerm(weight, axes, self.table.layers[name]))
        return found

    def at_most(self, limit: float) -> Budget:
        return replace(self, target=max(1, int(1e6 * limit)))

    def share_out(self) -> Allocation:
        return self.allocation


@dataclass(frozen=True, eq=False)
class LatencyTerm(Term):
    """The time of one layer.

    Args:
        weight: of the layer.
        axes: how it is read with one row per output channel.
        times: measured.
    """

    weight: Weight
    axes: Axes
    times: LayerTimes

    @property
    def knobs(self) -> frozenset[int]:
        return self.weight.knobs

    def cost(self, counts: Sequence[Counted]) -> float | Numbers | Counts:
        groups, outputs, _ = matrices(self.weight, self.axes, counts)
        inputs = self.weight.extents[0 if self.axes.out else 1].of(counts)
        sizes = (outputs * groups, inputs, groups)
        whole = self.times.undivided(*sizes)
        split = self.weight.split
        if split is None:
            return whole
        _, rows, columns = matrices(self.weight, split.axes, counts)
        divided = self.times.divided(*sizes, np.minimum(counts[split.knob], np.minimum(rows, columns)))
        return np.where(pays(self.weight, split, counts), divided, whole)
