"""Measuring the layers of a model one by one, at many sizes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.benchmark import Timer

from pliant.compress.budgets.grid import Grid
from pliant.compress.budgets.latency_table import LatencyTable, LayerTimes
from pliant.compress.factor import blank_factors, blank_like, rank_of
from pliant.metrics.latency import Latency
from pliant.structure.attention import slow_path
from pliant.structure.example import Example, call
from pliant.structure.matricise import Scheme, check_scheme, is_linear, is_plain_layer, widths
from pliant.structure.untouched import untouched

_Build = Callable[[int, int], Sequence[nn.Module]]

SHARES = (0.125, 0.25, 0.5, 0.75, 1.0)


def measure_latencies(
    model: nn.Module,
    example: Example,
    *,
    ranks: bool = True,
    scheme: Scheme = Scheme.CHANNEL,
    shares: Sequence[float] = SHARES,
    threads: int | None = None,
    seconds: float = 0.01,
) -> LatencyTable:
    """Measure every convolution and linear layer at several sizes, for `LatencyTarget`.

    Layers of one kind and size are measured once. What a call takes beyond its layers is the rest.

    Args:
        model: to be cut; it is left as it was.
        example: what it can be called with; its batch size counts.
        ranks: whether to measure the two layers that `LowRank` puts in the place of one, too.
        scheme: of that `LowRank`.
        shares: of channels and of the rank that are measured, ascending.
        threads: of torch while measuring; None: as many as torch uses now.
        seconds: to spend at least on each size of each layer.

    Raises:
        ValueError: if `scheme` is no scheme.

    Reference: medians of `torch.utils.benchmark.Timer.blocked_autorange`.
    """
    whole = Latency(threads, max(0.2, 20 * seconds)).measure(model, example)
    check_scheme(scheme)
    bench = _Bench(tuple(shares), whole.threads, seconds, scheme, {})
    layers = {}
    total = 0.0
    with untouched(model), torch.no_grad(), slow_path():
        for name, (layer, shapes) in _calls(model, example).items():
            layers[name] = bench.times(layer, shapes, ranks=ranks)
            total += float(layers[name].undivided(*widths(layer)))
    rest = max(0.0, whole.median - total)
    return LatencyTable(layers, rest, whole.threads, whole.dtype, whole.device, whole.shapes, scheme)


def _calls(model: nn.Module, example: Example) -> dict[str, tuple[nn.Module, list[tuple[int, ...]]]]:
    """Return every layer that runs, with the shape of its input at each call."""
    found: dict[str, tuple[nn.Module, list[tuple[int, ...]]]] = {}
    handles = []
    for name, module in model.named_modules():
        if is_plain_layer(module):

            def note(layer: nn.Module, args: tuple[Tensor, ...], name: str = name) -> None:
                found.setdefault(name, (layer, []))[1].append(tuple(args[0].shape))

            handles.append(module.register_forward_pre_hook(note))
    try:
        call(model, example)
    finally:
        for handle in handles:
            handle.remove()
    return found


@dataclass(frozen=True)
class _Bench:
    """Times layers; `known` holds what was measured before."""

    shares: tuple[float, ...]
    threads: int
    seconds: float
    scheme: Scheme
    known: dict[tuple[object, ...], float]

    def times(self, layer: nn.Module, shapes: Sequence[tuple[int, ...]], *, ranks: bool) -> LayerTimes:
        """Measure a layer at all sizes, on inputs of the first of the shapes that it reads."""
        outputs, inputs, groups = widths(layer)
        grouped = groups > 1
        rows, columns = self._sizes(groups if grouped else outputs), self._sizes(1 if grouped else inputs)

        def grid(ends: Sequence[int], others: Sequence[int], build: _Build, place: int = 0) -> Grid:
            table = ([self._time(build(end, other), shapes[0], layer, place) for other in others] for end in ends)
            return Grid(tuple(ends), tuple(others), tuple(tuple(len(shapes) * value for value in row) for row in table))

        whole = grid(rows, columns, lambda row, column: [_sized(layer, row, column)])
        deepest = rank_of(layer, self.scheme)
        if not ranks or deepest == 1:
            return LayerTimes(grouped, whole)

        def factors(sized: nn.Module, rank: int) -> list[nn.Module]:
            return list(blank_factors(sized, rank, self.scheme))

        deep, first_rows = self._sizes(deepest), rows if grouped else columns
        first = grid(first_rows, deep, lambda row, rank: factors(_reading(layer, row), rank))
        second = grid(rows, deep, lambda row, rank: factors(_sized(layer, row, inputs), rank), place=1)
        return LayerTimes(grouped, whole, first, second)

    def _sizes(self, full: int) -> list[int]:
        return sorted({max(1, round(share * full)) for share in self.shares} | {full})

    def _time(self, layers: Sequence[nn.Module], shape: tuple[int, ...], old: nn.Module, place: int) -> float:
        """Return the seconds of one of some layers that follow each other, on inputs of ones."""
        weight = old.get_parameter("weight")
        channel = len(shape) - (1 if is_linear(old) else weight.ndim - 1)
        shape = (*shape[:channel], widths(layers[0])[1], *shape[channel + 1 :])
        key = (str(layers), place, shape, weight.dtype, weight.device)
        if key not in self.known:
            ready = [_ready(layer, weight.device) for layer in layers]
            x = weight.new_ones(shape)
            for layer in ready[:place]:
                x = layer(x)
            timer = Timer("layer(x)", globals={"layer": ready[place], "x": x}, num_threads=self.threads)
            self.known[key] = timer.blocked_autorange(min_run_time=self.seconds).median
        return self.known[key]


def _sized(layer: nn.Module, row: int, column: int) -> nn.Module:
    """Return the layer with so many outputs and inputs, or so many groups."""
    outputs, inputs, groups = widths(layer)
    size = (outputs // groups * row, inputs // groups * row, row) if groups > 1 else (row, column, 1)
    return blank_like(layer, *size, bias=layer.bias is not None)


def _reading(layer: nn.Module, size: int) -> nn.Module:
    """Return the layer with so many inputs, or so many groups."""
    outputs, _, groups = widths(layer)
    return _sized(layer, size if groups > 1 else outputs, size)


def _ready(layer: nn.Module, device: torch.device) -> nn.Module:
    ready = layer.to_empty(device=device)
    for parameter in ready.parameters():
        nn.init.ones_(parameter)
    return ready
