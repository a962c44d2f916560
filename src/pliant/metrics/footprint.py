"""Footprint: everything that a model costs, in total and layer by layer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from pliant.metrics.activations import activation_memory
from pliant.metrics.latency import Latency, Timing
from pliant.metrics.size import macs_by_module, size
from pliant.structure.example import Example


@dataclass(frozen=True)
class LayerSize:
    """What one module costs by itself, without the modules in it.

    Args:
        parameters: entries; a shared parameter counts where it comes first.
        macs: multiply-accumulates of one call of the model on the example.
        bytes: of parameters and buffers.
        activations: bytes that its operators return in one call.
    """

    parameters: int = 0
    macs: int = 0
    bytes: int = 0
    activations: int = 0

    def __add__(self, other: LayerSize) -> LayerSize:
        return LayerSize(
            self.parameters + other.parameters,
            self.macs + other.macs,
            self.bytes + other.bytes,
            self.activations + other.activations,
        )


@dataclass(frozen=True)
class Footprint:
    """What a model costs for one call on an example, the whole batch together.

    Args:
        parameters: number of parameter entries; shared parameters count once.
        nonzero: those of them that are not zero.
        macs: multiply-accumulates.
        bytes: of parameters and buffers.
        activations: bytes of all that operators return.
        peak_activations: the most of them alive at once without gradients.
        layers: qualified module name -> its own share; over all modules they add up to the totals.
        latency: measured time of a call, or None.
    """

    parameters: int
    nonzero: int
    macs: int
    bytes: int
    activations: int
    peak_activations: int
    layers: Mapping[str, LayerSize]
    latency: Timing | None = None


def footprint(model: nn.Module, example: Example, *, latency: Latency | None = None) -> Footprint:
    """Measure what a model costs; it is left as it was.

    Args:
        model: any module.
        example: what the model can be called with; its batch size counts.
        latency: how to measure the time of a call; None: not at all.
    """
    whole, memory, macs = size(model, example), activation_memory(model, example), macs_by_module(model, example)
    layers = {
        name: LayerSize(parameters, macs[name], nbytes, memory.modules[name])
        for name, (parameters, nbytes) in _weights_by_module(model).items()
    }
    return Footprint(
        parameters=whole.parameters,
        nonzero=whole.nonzero,
        macs=whole.macs,
        bytes=whole.bytes,
        activations=memory.total,
        peak_activations=memory.peak,
        layers=layers,
        latency=None if latency is None else latency.measure(model, example),
    )


def _weights_by_module(model: nn.Module) -> dict[str, tuple[int, int]]:
    """Return parameters and bytes of parameters and buffers; a shared tensor belongs to the first that has it."""
    seen: set[int] = set()
    found = {}
    for name, module in model.named_modules():
        parameters = _new(module.parameters(recurse=False), seen)
        buffers = _new(module.buffers(recurse=False), seen)
        nbytes = sum(tensor.numel() * tensor.element_size() for tensor in [*parameters, *buffers])
        found[name] = (sum(parameter.numel() for parameter in parameters), nbytes)
    return found


def _new(tensors: Iterable[Tensor], seen: set[int]) -> list[Tensor]:
    fresh = [tensor for tensor in tensors if id(tensor) not in seen]
    seen.update(map(id, fresh))
    return fresh
