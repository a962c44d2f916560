"""Normalisation layers: which they are, and which layer each of them follows."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from pliant.structure.attention import slow_path
from pliant.structure.copies import fresh_copy
from pliant.structure.example import Example, call
from pliant.structure.matricise import axes_of, is_layer
from pliant.structure.unfit import refuse_unfit

NORM_LAYERS = (_BatchNorm, _InstanceNorm, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm, nn.LocalResponseNorm)
CHANNEL_NORMS = (_BatchNorm, _InstanceNorm)  # a zero scale and shift make one channel exactly zero, whatever the others


def norm_after(model: nn.Module, example: Example) -> dict[str, str]:
    """Find the norm layer that consumes exactly the output of each convolution or linear layer.

    The model is run once in evaluation mode without gradients, and the tensors that layers emit are compared with
    those that norm layers receive; the model is left as it was.

    Args:
        model: any module.
        example: what the model can be called with.

    Returns:
        qualified layer name -> qualified name of its norm layer (batch or instance norm with one scale and one shift
        per output channel). Layers or norms that are called more than once are left out.

    Raises:
        ValueError: if the model cannot be watched or copied (`refuse_unfit`).
    """
    refuse_unfit(model)
    model = fresh_copy(model)
    names = {module: name for name, module in model.named_modules()}
    emitted, received = _watched(model, example)
    calls = Counter(seen.module for seen in emitted + received)
    pairs = {}
    for output in emitted:
        norms = [seen.module for seen in received if seen.is_same(output)]
        if len(norms) == 1 and calls[output.module] == calls[norms[0]] == 1 and _fits(output.module, norms[0]):
            pairs[names[output.module]] = names[norms[0]]
    return pairs


@dataclass(frozen=True, eq=False)
class _Seen:
    """A tensor that a module emitted or received, and how often it had been written to by then."""

    module: nn.Module
    tensor: Tensor
    version: int

    def is_same(self, other: _Seen) -> bool:
        return self.tensor is other.tensor and self.version == other.version


def _watched(model: nn.Module, example: Example) -> tuple[list[_Seen], list[_Seen]]:
    """Return what layers emitted and what norm layers received, in order."""
    emitted: list[_Seen] = []
    received: list[_Seen] = []

    def after(module: nn.Module, _: object, output: object) -> None:
        if isinstance(output, Tensor):
            emitted.append(_Seen(module, output, output._version))  # noqa: SLF001  (counts writes in place)

    def before(module: nn.Module, inputs: tuple[object, ...]) -> None:
        if inputs and isinstance(inputs[0], Tensor):
            received.append(_Seen(module, inputs[0], inputs[0]._version))  # noqa: SLF001  (as above)

    handles = [m.register_forward_hook(after) for m in model.modules() if is_layer(m)]
    handles += [m.register_forward_pre_hook(before) for m in model.modules() if isinstance(m, CHANNEL_NORMS)]
    try:
        _run_quietly(model, example)
    finally:
        for handle in handles:
            handle.remove()
    return emitted, received


def _fits(layer: nn.Module, norm: nn.Module) -> bool:
    weight = layer.get_parameter("weight")
    return getattr(norm, "num_features", None) == axes_of(layer, "weight").channels(weight.shape)


def _run_quietly(model: nn.Module, example: Example) -> None:
    modes = {module: module.training for module in model.modules()}
    devices = {p.device.index for p in model.parameters() if p.is_cuda}
    try:
        model.eval()
        with torch.no_grad(), torch.random.fork_rng(devices=devices), slow_path():
            call(model, example)
    finally:
        for module, mode in modes.items():
            module.training = mode


def is_norm(module: nn.Module) -> bool:
    """Tell whether a module normalises: a norm layer of torch, or a class that calls itself one (`LlamaRMSNorm`)."""
    return isinstance(module, NORM_LAYERS) or "Norm" in type(module).__name__
