"""Plain chains: layers whose channels reach one next layer and nothing else, found by tracing, never by guessing."""

from __future__ import annotations

import copy
import math
import operator
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.fx.passes.shape_prop import ShapeProp

from pliant.compress.candidates import shared_layers
from pliant.compress.cut import Link, Role
from pliant.compress.probe import Probe
from pliant.structure.matricise import PRUNABLE
from pliant.structure.norms import Example

# Element by element, or pixel by pixel, and zero for zero: a zero channel stays a zero channel.
_MODULES = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.GELU, nn.SiLU, nn.Mish, nn.Tanh, nn.ELU, nn.SELU, nn.CELU, nn.Softsign,
    nn.Hardswish, nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d,
)  # fmt: skip
_POOL_MODULES = (
    nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d,
    nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d,
    nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d,
)  # fmt: skip
_FUNCTIONS = (
    torch.relu, torch.relu_, torch.tanh, F.relu, F.relu_, F.relu6, F.leaky_relu, F.gelu, F.silu, F.mish, F.tanh, F.elu,
    F.selu, F.celu, F.softsign, F.hardswish, F.dropout, F.dropout1d, F.dropout2d, F.dropout3d,
)  # fmt: skip
_POOL_FUNCTIONS = (
    F.max_pool1d, F.max_pool2d, F.max_pool3d, F.avg_pool1d, F.avg_pool2d, F.avg_pool3d,
    F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d,
    F.adaptive_max_pool1d, F.adaptive_max_pool2d, F.adaptive_max_pool3d,
)  # fmt: skip
_METHODS = ("relu", "relu_", "tanh", "tanh_", "contiguous")  # a method is known by its name alone
_ELEMENTWISE = {*_MODULES, *_FUNCTIONS, *_METHODS}
_POOLS = {*_POOL_MODULES, *_POOL_FUNCTIONS}
_CONSTANT = (nn.Sigmoid, nn.Softplus, nn.Hardsigmoid, nn.LogSigmoid, torch.sigmoid, F.sigmoid, F.softplus, "sigmoid")


class _Refused(Exception):  # noqa: N818  (control flow inside this module)
    """The channels go where we cannot follow."""


@dataclass(frozen=True)
class _State:
    """How the tensor on the way looks: channels on dim 1 with `spatial` dims behind, or flattened."""

    spatial: int
    flat: bool = False


def find_chains(
    model: nn.Module, layers: Sequence[str], norms: Mapping[str, str], probe: Probe, example: Example
) -> tuple[dict[str, Link], dict[str, str]]:
    """Find the single consumer of each layer's channels.

    The model is traced symbolically in evaluation and in training mode; both must agree.

    Args:
        model: the model.
        layers: names of convolutions and linear layers.
        norms: layer name -> name of its norm layer.
        probe: what one run of the model showed.
        example: what the model can be called with.

    Returns:
        layer name -> the link to its consumer, for the layers whose channels can be taken out; and for the others
        layer name -> reason.
    """
    try:
        traces = [_Trace(model, norms, probe, training=training) for training in (False, True)]
        traces[0].measure(example)
    except Exception as error:  # noqa: BLE001  (tracing runs the model's own code, which may raise anything)
        text = str(error).strip().split("\n")[0]
        reason = f"the model cannot be traced: {type(error).__name__}: {text}"
        return {}, dict.fromkeys(layers, reason)
    links, refused = {}, {}
    for name in layers:
        try:
            found = {trace.consumer(name) for trace in traces}
        except _Refused as error:
            refused[name] = str(error)
            continue
        if len(found) == 1:
            links[name] = found.pop()
        else:
            refused[name] = "its channels go elsewhere in training mode than in evaluation mode"
    return links, refused


class _Trace:
    def __init__(self, model: nn.Module, norms: Mapping[str, str], probe: Probe, *, training: bool) -> None:
        self.model = copy.deepcopy(model).train(training)
        self.norms, self.probe = norms, probe
        self.shared = shared_layers(model)
        self.graph = graph = fx.Tracer().trace(self.model)
        self.shapes: dict[str, Sequence[int]] = {}
        self.calls = Counter(node.target for node in graph.nodes if node.op == "call_module")
        self.nodes = {node.target: node for node in graph.nodes if node.op == "call_module"}
        self.read = {str(node.target).rpartition(".")[0] for node in graph.nodes if node.op == "get_attr"}

    def measure(self, example: Example) -> None:
        """Run the trace on the example, to know the shape of every tensor on the way."""
        with torch.no_grad():
            arguments = (example,) if isinstance(example, Tensor) else tuple(example)
            ShapeProp(fx.GraphModule(self.model, self.graph)).propagate(*arguments)
        for node in self.graph.nodes:
            shape = getattr(node.meta.get("tensor_meta"), "shape", None)
            if shape is not None:
                self.shapes[node.name] = shape

    def consumer(self, name: str) -> Link:
        layer = self.model.get_submodule(name)
        self._check_layer(name, "it")
        if getattr(layer, "groups", 1) != 1:
            raise _Refused("grouped: its channels are tied to its groups")
        state = self._start(layer, name)
        node = self.nodes[name]
        while True:
            node = self._next(node)
            target = self.model.get_submodule(str(node.target)) if node.op == "call_module" else None
            if target is not None and isinstance(target, PRUNABLE):
                return self._link(layer, node, target, state)
            state = self._through(name, node, target, state)

    def _check_layer(self, name: str, who: str) -> None:
        if self.calls[name] == 0:
            raise _Refused(f"{who} is inside a module that cannot be traced")
        if self.calls[name] != 1:
            raise _Refused(f"{who} is called {self.calls[name]} times")
        if name in self.read:
            raise _Refused(f"{who} has its weight read outside its own call")

    def _start(self, layer: nn.Module, name: str) -> _State:
        ndim = self.probe.uses[name].ndim
        if isinstance(layer, nn.Linear):
            if ndim == 2:
                return _State(0)
            return _State(0, flat=True)
        spatial = layer.get_parameter("weight").ndim - 2
        if ndim != spatial + 2:
            raise _Refused("it is called without a batch dimension")
        return _State(spatial)

    def _next(self, node: fx.Node) -> fx.Node:
        users = [user for user in node.users if not _asks_batch_size(user)]
        if not users:
            raise _Refused("nothing uses its output")
        if len(users) > 1:
            raise _Refused(f"its output goes to several places: {', '.join(_describe(user) for user in users)}")
        if users[0].op == "output":
            raise _Refused("its channels are an output of the model")
        if users[0].all_input_nodes.count(node) != 1 or users[0].args[:1] != (node,):
            raise _Refused(f"feeds {_describe(users[0])}, which is not understood")
        return users[0]

    def _through(self, name: str, node: fx.Node, module: nn.Module | None, state: _State) -> _State:
        if module is not None and self.norms.get(name) == node.target and self.calls[node.target] == 1:
            return state
        if _flattens(node, module):
            return self._flattened(node, state)
        if _averages(node, state):
            return replace(state, spatial=0) if not _keeps_dims(node) else state
        what = type(module) if module is not None else node.target
        if what in _CONSTANT:
            raise _Refused(f"{_describe(node)} does not map zero to zero: a removed channel would be a constant")
        if what not in _ELEMENTWISE and not (state.spatial and what in _POOLS):
            raise _Refused(f"feeds {_describe(node)}, which is not understood")
        return state

    def _flattened(self, node: fx.Node, state: _State) -> _State:
        if state.flat:
            raise _Refused(f"feeds {_describe(node)} with its features on the last of three or more dimensions")
        before, after = self.shapes.get(node.all_input_nodes[0].name), self.shapes.get(node.name)
        if before is not None and tuple(after or ()) != (before[0], math.prod(before[1:])):
            raise _Refused(f"feeds {_describe(node)}, which does not keep samples and channels apart")
        return _State(0)

    def _link(self, layer: nn.Module, node: fx.Node, consumer: nn.Module, state: _State) -> Link:
        name = str(node.target)
        self._check_layer(name, f"its consumer {name!r}")
        if name in self.shared:
            raise _Refused(f"its consumer {name!r} {self.shared[name]}")
        if type(consumer) not in PRUNABLE or "weight" not in dict(consumer.named_parameters(recurse=False)):
            raise _Refused(f"its consumer {name!r} has no plain weight")
        if getattr(consumer, "groups", 1) != 1:
            raise _Refused(f"its consumer {name!r} is grouped")
        linear = isinstance(consumer, nn.Linear)
        if linear != (state.spatial == 0):
            raise _Refused(f"its channels are not the input channels of {name!r}")
        width = _inputs(consumer)
        channels = _outputs(layer)
        if width % channels or (not linear and width != channels):
            raise _Refused(f"its {channels} channels do not match the {width} inputs of {name!r}")
        return Link(name, Role.INPUT, width // channels)


def _inputs(layer: nn.Module) -> int:
    return layer.in_features if isinstance(layer, nn.Linear) else int(getattr(layer, "in_channels", 0))


def _outputs(layer: nn.Module) -> int:
    return layer.out_features if isinstance(layer, nn.Linear) else int(getattr(layer, "out_channels", 0))


def _asks_batch_size(node: fx.Node) -> bool:
    """Whether a node only reads the size of dimension 0: x.size(0), x.size()[0], x.shape[0]."""
    if node.op == "call_method" and node.target == "size":
        return _rest(node) == (0,) or (not _rest(node) and _only_first(node))
    return node.target is getattr and _rest(node) == ("shape",) and _only_first(node)


def _only_first(node: fx.Node) -> bool:
    return all(user.target is operator.getitem and user.args[1] == 0 for user in node.users)


def _is_batch_size(node: fx.Node) -> bool:
    if node.target is operator.getitem and isinstance(node.args[0], fx.Node) and node.args[1] == 0:
        source = node.args[0]
        return source.target == "size" or (source.target is getattr and _rest(source) == ("shape",))
    return node.op == "call_method" and node.target == "size" and _rest(node) == (0,)


def _rest(node: fx.Node) -> tuple[object, ...]:
    """Return the positional arguments after the first."""
    return tuple(node.args[1:])


def _flattens(node: fx.Node, module: nn.Module | None) -> bool:
    """Whether a node turns (N, C, ...) into (N, features)."""
    if isinstance(module, nn.Flatten):
        return (module.start_dim, module.end_dim) == (1, -1)
    if node.target is torch.flatten or (node.op == "call_method" and node.target == "flatten"):
        arguments = dict(zip(("start_dim", "end_dim"), node.args[1:], strict=False)) | dict(node.kwargs)
        return bool(arguments.get("start_dim", 0) == 1 and arguments.get("end_dim", -1) == -1)
    if node.op == "call_method" and node.target in {"view", "reshape"} and len(node.args) == 3:
        batch, rest = node.args[1:]
        return bool(rest == -1) and isinstance(batch, fx.Node) and _is_batch_size(batch)
    return False


def _averages(node: fx.Node, state: _State) -> bool:
    """Whether a node is the mean over all spatial dimensions."""
    if not (node.target is torch.mean or (node.op == "call_method" and node.target == "mean")) or not state.spatial:
        return False
    dims = node.kwargs.get("dim", node.args[1] if len(node.args) > 1 else None)
    dims = [dims] if isinstance(dims, int) else dims
    if not isinstance(dims, list | tuple):
        return False
    total = state.spatial + 2
    return {d % total for d in dims if isinstance(d, int)} == set(range(2, total))


def _keeps_dims(node: fx.Node) -> bool:
    return bool(node.kwargs.get("keepdim", node.args[2] if len(node.args) > 2 else False))


def _describe(node: fx.Node) -> str:
    if node.op == "call_module":
        return f"the module {str(node.target)!r}"
    return f"the {'output' if node.op == 'output' else getattr(node.target, '__name__', node.target)!s}"
