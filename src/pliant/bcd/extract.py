"""From a model to its chain: traced, not run, and refused by name where a block would have no solution."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import fx, nn

from pliant.bcd.activations import Activation, Identity, Rectifier
from pliant.bcd.chain import INPUT, Block, Chain
from pliant.bcd.convolution import Convolution, Pair
from pliant.bcd.dense import Dense
from pliant.bcd.errors import ChainError
from pliant.bcd.maps import FixedMap, FixedMaps, Flat, Pooled, PooledTo
from pliant.bcd.operator import Operator

SUPPORTED = (
    "Linear, Conv2d (one group, zero padding), ReLU, LeakyReLU, Identity, Flatten, AvgPool2d, AdaptiveAvgPool2d, and "
    "sums of a layer's output and earlier activations"
)
_ADD: tuple[object, ...] = (operator.add, operator.iadd, torch.add, "add", "add_")
_FUNCTIONS: dict[object, Callable[..., nn.Module]] = {
    F.relu: lambda **_: nn.ReLU(),
    torch.relu: nn.ReLU,
    "relu": nn.ReLU,
    F.leaky_relu: lambda negative_slope=0.01, **_: nn.LeakyReLU(negative_slope),
    torch.flatten: lambda start_dim=0, end_dim=-1: nn.Flatten(start_dim, end_dim),
    "flatten": lambda start_dim=0, end_dim=-1: nn.Flatten(start_dim, end_dim),
    F.avg_pool2d: nn.AvgPool2d,
    F.adaptive_avg_pool2d: nn.AdaptiveAvgPool2d,
}


@dataclass(frozen=True, eq=False)
class _Hidden:
    """Activations of a block, after fixed maps."""

    block: int
    maps: FixedMaps


@dataclass(frozen=True, eq=False)
class _Linear:
    """A layer's output that has met no activation yet."""

    operator: Operator
    before: int
    skip: int | None = None


_Value = _Hidden | _Linear


class _Step(Protocol):
    def __call__(self, builder: _Builder, name: str, module: Any, value: _Value) -> _Value: ...  # noqa: ANN401


def chain_of(model: nn.Module, *, conjugate_steps: int) -> Chain:
    """Return the chain of a model.

    Args:
        model: whose forward pass takes one tensor, samples first.
        conjugate_steps: steps of conjugate gradients for activations that a convolution reads.

    Raises:
        ChainError: if the model cannot be traced, or is no chain of what is supported; the message names the layer.
    """
    try:
        graph = fx.Tracer().trace(model)
    except Exception as error:
        raise ChainError(f"{type(model).__name__} cannot be traced: {error}") from error
    return _Builder(dict(model.named_modules()), conjugate_steps).build(graph)


class _Builder:
    def __init__(self, modules: dict[str, nn.Module], conjugate_steps: int) -> None:
        self.modules = modules
        self.conjugate_steps = conjugate_steps
        self.blocks: list[Block] = []
        self.used: set[int] = set()
        self.owners: dict[int, str] = {}  # of every weight and bias, by its id

    def build(self, graph: fx.Graph) -> Chain:
        values: dict[fx.Node, _Value] = {}
        for node in graph.nodes:
            if node.op == "placeholder" and values:
                raise ChainError(f"{node.name}: a chain reads one tensor, this model reads more")
            if node.op == "output":
                self.end(values.get(node.args[0]))
                return Chain(tuple(self.blocks))
            values[node] = self.value(node, values)
        raise ChainError("the model returns nothing")

    def value(self, node: fx.Node, values: dict[fx.Node, _Value]) -> _Value:
        if node.op == "placeholder":
            return _Hidden(INPUT, FixedMaps())
        read = [values[arg] for arg in node.args if isinstance(arg, fx.Node)]
        if node.target in _ADD and len(read) == 2 and len(node.args) == 2 and not node.kwargs:
            return self.sum(node.name, *read)
        name, module = self.layer(node)
        step = _STEPS.get(type(module))
        if step is None or len(read) != 1:
            raise ChainError(f"{name}: {type(module).__name__} has no place in a chain; supported are {SUPPORTED}")
        return step(self, name, module, read[0])

    def layer(self, node: fx.Node) -> tuple[str, nn.Module]:
        if node.op == "call_module":
            return str(node.target), self.modules[str(node.target)]
        make = _FUNCTIONS.get(node.target)
        if make is None:
            raise ChainError(f"{node.name}: {node.target!r} has no place in a chain; supported are {SUPPORTED}")
        try:
            return node.name, make(*node.args[1:], **node.kwargs)
        except TypeError as error:
            raise ChainError(f"{node.name}: {node.target!r} cannot be read: {error}") from error

    def sum(self, name: str, one: _Value, other: _Value) -> _Value:
        if isinstance(one, _Hidden):
            one, other = other, one
        if not isinstance(one, _Linear) or not isinstance(other, _Hidden) or one.skip is not None or other.maps.maps:
            raise ChainError(f"{name}: a sum must be of one layer's output and unchanged activations")
        if other.block == one.before:
            raise ChainError(f"{name}: the branch of a sum must have an activation of its own")
        return replace(one, skip=other.block)

    def read(self, name: str, value: _Value) -> _Hidden:
        """Return what a layer reads; a layer straight behind another has the identity between."""
        hidden = self.close(value, Identity()) if isinstance(value, _Linear) else value
        if hidden.block != len(self.blocks) - 1:
            raise ChainError(f"{name}: a layer must read what the one before it gave; branches with layers do not fit")
        return hidden

    def close(self, value: _Linear, activation: Activation) -> _Hidden:
        if value.before != len(self.blocks) - 1:
            raise ChainError(f"{value.operator.name}: its output is used twice before it meets an activation")
        if id(value.operator.module) in self.used:
            raise ChainError(f"{value.operator.name}: a layer can be used once only")
        self.used.add(id(value.operator.module))
        self.own(value.operator.name, value.operator.module)
        self.blocks.append(Block(value.operator, activation, value.skip))
        return _Hidden(len(self.blocks) - 1, FixedMaps())

    def own(self, name: str, module: nn.Module) -> None:
        """Refuse a layer whose parameters another one has, or has that are computed."""
        for local in ("weight", "bias"):
            tensor = getattr(module, local)
            if tensor is not None and not isinstance(tensor, nn.Parameter):
                raise ChainError(f"{name}: its {local} is no parameter but computed (pruned, say): make it one first")
            other = self.owners.setdefault(id(tensor), name) if tensor is not None else name
            if other != name:
                raise ChainError(f"{name}: shares its {local} with {other}; every layer of a chain must have its own")

    def end(self, value: _Value | None) -> None:
        hidden = self.close(value, Identity()) if isinstance(value, _Linear) else value
        if hidden is None or hidden.maps.maps or hidden.block != len(self.blocks) - 1 or not self.blocks:
            raise ChainError("a chain must end in a Linear layer, with or without an activation")
        if not isinstance(self.blocks[-1].operator, Dense):
            raise ChainError(f"{self.blocks[-1].name}: the last layer of a chain must be Linear")


def _linear(builder: _Builder, name: str, module: nn.Linear, value: _Value) -> _Value:
    hidden = builder.read(name, value)
    return _Linear(Dense(name, module, hidden.maps), hidden.block)


def _convolution(builder: _Builder, name: str, module: nn.Conv2d, value: _Value) -> _Value:
    if module.groups != 1:
        raise ChainError(f"{name}: groups must be 1, found {module.groups}")
    if module.padding_mode != "zeros":
        raise ChainError(f"{name}: padding_mode must be 'zeros', found {module.padding_mode!r}")
    hidden = builder.read(name, value)
    layer = Convolution(name, module, hidden.maps, _padding(name, module), builder.conjugate_steps)
    return _Linear(layer, hidden.block)


def _padding(name: str, module: nn.Conv2d) -> Pair:
    if not isinstance(module.padding, str):
        height, width = module.padding
        return height, width
    if module.padding == "valid":
        return 0, 0
    (kh, kw), (dh, dw) = module.kernel_size, module.dilation
    height, width = dh * (kh - 1), dw * (kw - 1)
    if height % 2 or width % 2:
        raise ChainError(f"{name}: padding='same' must be as wide on both sides, but the kernel is {kh}x{kw}")
    return height // 2, width // 2


def _flat(builder: _Builder, name: str, module: nn.Flatten, value: _Value) -> _Value:  # noqa: ARG001  (a _Step)
    if (module.start_dim, module.end_dim) != (1, -1):
        raise ChainError(f"{name}: Flatten must keep the samples and nothing else: start_dim=1, end_dim=-1")
    return _mapped(name, Flat(), value)


def _pooled(builder: _Builder, name: str, module: nn.AvgPool2d, value: _Value) -> _Value:  # noqa: ARG001  (a _Step)
    return _mapped(name, Pooled(module), value)


def _pooled_to(builder: _Builder, name: str, module: nn.AdaptiveAvgPool2d, value: _Value) -> _Value:  # noqa: ARG001
    return _mapped(name, PooledTo(module), value)


def _mapped(name: str, one: FixedMap, value: _Value) -> _Value:
    if isinstance(value, _Linear):
        raise ChainError(f"{name}: flattening and pooling must come behind an activation, not straight behind a layer")
    return replace(value, maps=value.maps.then(one))


def _activation(builder: _Builder, name: str, module: nn.Module, value: _Value) -> _Value:
    if isinstance(value, _Hidden):
        raise ChainError(f"{name}: an activation must follow a layer, or a sum, at once")
    if not isinstance(module, nn.LeakyReLU):
        return builder.close(value, Rectifier())
    if not (math.isfinite(module.negative_slope) and 0.0 <= module.negative_slope < 1.0):
        raise ChainError(f"{name}: negative_slope must be in [0, 1), found {module.negative_slope}")
    return builder.close(value, Rectifier(module.negative_slope))


def _nothing(builder: _Builder, name: str, module: nn.Module, value: _Value) -> _Value:  # noqa: ARG001  (a _Step)
    return value


_STEPS: dict[type[nn.Module], _Step] = {
    nn.Linear: _linear,
    nn.Conv2d: _convolution,
    nn.Flatten: _flat,
    nn.AvgPool2d: _pooled,
    nn.AdaptiveAvgPool2d: _pooled_to,
    nn.ReLU: _activation,
    nn.LeakyReLU: _activation,
    nn.Identity: _nothing,
}
