"""LatencyTable: how long each layer of a model takes at every size, measured on this machine."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from torch import nn

from pliant.compress.budgets.allocation import BudgetError
from pliant.compress.budgets.grid import Grid
from pliant.compress.budgets.problem import Counted, Numbers
from pliant.compress.factor import Factors
from pliant.structure.matricise import Scheme, widths

SCHEMA = 1


@dataclass(frozen=True)
class LayerTimes:
    """Seconds of one layer, all of its calls in one call of the model together.

    Args:
        grouped: whether it has groups: its sizes are then numbers of groups, else numbers of channels.
        whole: outputs x inputs; groups x 1.
        first: the first of two layers in its place, inputs x rank; groups x rank. None if not measured.
        second: the second of them, outputs x rank; groups x rank.
    """

    grouped: bool
    whole: Grid
    first: Grid | None = None
    second: Grid | None = None

    def undivided(self, outputs: Counted, inputs: Counted, groups: Counted) -> Numbers:
        """Return the seconds of the layer."""
        return self.whole.at(groups, 1) if self.grouped else self.whole.at(outputs, inputs)

    def divided(self, outputs: Counted, inputs: Counted, groups: Counted, rank: Counted) -> Numbers:
        """Return the seconds of the two layers in its place.

        Raises:
            BudgetError: if they were not measured.
        """
        if self.first is None or self.second is None:
            raise BudgetError("the latency table must know layers in two: measure it with ranks=True")
        left, right = (groups, groups) if self.grouped else (inputs, outputs)
        return self.first.at(left, rank) + self.second.at(right, rank)


@dataclass(frozen=True)
class LatencyTable:
    """Measured seconds of the layers of a model; `measure_latencies` makes one.

    Args:
        layers: qualified layer name -> its times.
        rest: seconds of everything else.
        threads: of torch while measuring.
        dtype: of the model.
        device: that it lay on.
        shapes: of the tensors of the example.
        scheme: which two layers were measured in the place of one.
    """

    layers: Mapping[str, LayerTimes]
    rest: float
    threads: int
    dtype: str
    device: str
    shapes: tuple[tuple[int, ...], ...]
    scheme: Scheme = Scheme.CHANNEL

    def predict(self, model: nn.Module) -> float:
        """Return the seconds of one call of the model that was measured, or of one that a cut made from it.

        Raises:
            BudgetError: if a layer has become two others than those that were measured.
        """
        modules = dict(model.named_modules())
        here = {name: times for name, times in self.layers.items() if name in modules}
        for name in here:
            _check_factors(name, modules[name], self.scheme)
        return self.rest + sum(_seconds(times, modules[name]) for name, times in here.items())

    def to_json(self) -> str:
        """Return JSON text, from which `from_json` rebuilds an equal table."""
        data = {"schema": SCHEMA} | asdict(self) | {"scheme": self.scheme.value}
        return json.dumps(data, indent=1, allow_nan=False)

    @staticmethod
    def from_json(text: str) -> LatencyTable:
        """Read a table; nothing but data is built.

        Raises:
            BudgetError: if the text is no table.
        """
        try:
            data = json.loads(text)
            if data.pop("schema") != SCHEMA:
                raise BudgetError(f"a latency table must have the schema {SCHEMA}: measure it again")
            layers = {name: _times(**times) for name, times in data.pop("layers").items()}
            shapes = tuple(tuple(shape) for shape in data.pop("shapes"))
            scheme = Scheme(data.pop("scheme", Scheme.CHANNEL.value))
            return LatencyTable(layers=layers, shapes=shapes, scheme=scheme, **data)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise BudgetError(f"not a latency table: {type(error).__name__}: {error}") from error


def _check_factors(name: str, module: nn.Module, scheme: Scheme) -> None:
    if isinstance(module, Factors) and module.spatial and scheme is not Scheme.SPATIAL:
        raise BudgetError(f"the latency table knows the layer {name!r} in two by {scheme} alone, not {Scheme.SPATIAL}")


def _seconds(times: LayerTimes, module: nn.Module) -> float:
    if not isinstance(module, Factors):
        return float(times.undivided(*widths(module)))
    (channels, inputs, groups), (outputs, _, _) = widths(module[0]), widths(module[1])
    return float(times.divided(outputs, inputs, groups, channels // groups))


def _times(
    grouped: object, whole: Mapping[str, Any], first: Mapping[str, Any] | None, second: Mapping[str, Any] | None
) -> LayerTimes:
    pair = [None if grid is None else _grid(**grid) for grid in (first, second)]
    return LayerTimes(bool(grouped), _grid(**whole), *pair)


def _grid(rows: Sequence[int], columns: Sequence[int], seconds: Sequence[Sequence[float]]) -> Grid:
    return Grid(tuple(rows), tuple(columns), tuple(map(tuple, seconds)))
