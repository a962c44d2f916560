"""One run of the model on the example: which layers are called, how often, and which of them are its outputs."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pliant.structure.attention import slow_path
from pliant.structure.example import Example, call
from pliant.structure.matricise import CONVOLUTIONS, TRANSPOSED, is_layer, widths
from pliant.structure.outputs import outputs_of
from pliant.structure.unfit import refuse_unfit


@dataclass(frozen=True)
class Use:
    """How one layer was used.

    Args:
        calls: how often it was called.
        inputs: positions (samples, pixels, tokens) that it read, all calls together.
        outputs: positions that it wrote.
        between: of a convolution, positions as many as it read along the last axis and as it wrote along the others;
            two convolutions along one axis each have these between them. 0 for other layers.
        ndim: dimensions of its output, batch and channels included.
        plain: whether every call had exactly one positional argument.
    """

    calls: int
    inputs: int
    outputs: int
    between: int
    ndim: int
    plain: bool

    def entry_uses(self, layer: nn.Module) -> int:
        """Return how often each weight entry is multiplied."""
        return self.inputs if isinstance(layer, TRANSPOSED) else self.outputs


@dataclass(frozen=True)
class Probe:
    """What one run showed.

    Args:
        uses: qualified name of each convolution or linear layer that was called -> how.
        heads: names of the output layers: no other layer stands between them and the model's output.
        read: names of the layers whose weight or bias is read outside their own forward.
    """

    uses: Mapping[str, Use]
    heads: frozenset[str]
    read: frozenset[str] = frozenset()


def probe(model: nn.Module, example: Example) -> Probe:
    """Run a copy of the model once, in evaluation mode.

    Output layers are found by walking from the outputs back through the autograd graph until layers are met, so that
    a softmax, a pool or a reshape behind the last layer hides nothing.

    Raises:
        ValueError: if the model cannot be watched or copied (`refuse_unfit`), or returns no tensor.
    """
    refuse_unfit(model)
    twin = copy.deepcopy(model).eval()
    for parameter in twin.parameters():
        if parameter.is_floating_point():
            parameter.requires_grad_()
    uses: dict[str, Use] = {}
    emitted: list[tuple[str, Tensor, Any]] = []
    reads: dict[str, _Reads] = {}
    for name, module in twin.named_modules():
        if is_layer(module):
            reads[name] = _Reads.of(module)
            module.register_forward_hook(_recorder(name, uses, emitted), with_kwargs=True)
    with torch.enable_grad(), slow_path():
        outputs = [tensor for tensor, _ in outputs_of(call(twin, example))]
    read = frozenset(name for name, found in reads.items() if found.foreign)
    return Probe(uses, _heads(outputs, emitted), read)


class _Reads(dict[str, Any]):
    """The parameters of a module, which notices when somebody else than the module's own forward asks for one."""

    running = False
    foreign = False

    def __getitem__(self, name: str) -> Any:  # noqa: ANN401  (as dict has it)
        self.foreign |= not self.running
        return super().__getitem__(name)

    @staticmethod
    def of(module: nn.Module) -> _Reads:
        """Watch a module, for good."""
        reads = _Reads(module._parameters)  # noqa: SLF001  (attributes of parameters come from there)
        module._parameters = reads  # noqa: SLF001  (as above)
        module.register_forward_pre_hook(lambda *_: setattr(reads, "running", True))
        module.register_forward_hook(lambda *_: setattr(reads, "running", False))
        return reads


def _recorder(name: str, uses: dict[str, Use], emitted: list[tuple[str, Tensor, Any]]) -> Any:  # noqa: ANN401 (hook)
    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> None:
        emitted.append((name, output, output.grad_fn))  # an activation in place replaces grad_fn afterwards
        given = args[0] if args else next(iter(kwargs.values()))
        written, read, _ = widths(module)
        old = uses.get(name, Use(0, 0, 0, 0, 0, plain=True))
        uses[name] = Use(
            calls=old.calls + 1,
            inputs=old.inputs + given.numel() // read,
            outputs=old.outputs + output.numel() // written,
            between=old.between + (_between(given, output) // written if isinstance(module, CONVOLUTIONS) else 0),
            ndim=output.ndim,
            plain=old.plain and len(args) == 1 and not kwargs,
        )

    return hook


def _between(given: Tensor, output: Tensor) -> int:
    return output[..., :1].numel() * given.shape[-1]


def _heads(outputs: Iterable[Tensor], emitted: list[tuple[str, Tensor, Any]]) -> frozenset[str]:
    outputs = list(outputs)
    storages = {t.untyped_storage().data_ptr() for t in outputs}
    heads = {name for name, t, _ in emitted if t.untyped_storage().data_ptr() in storages}
    owners = {node: name for name, _, node in emitted if node is not None}
    stack, seen = [t.grad_fn for t in outputs if t.grad_fn is not None], set()
    while stack:
        node = stack.pop()
        if node in owners:
            heads.add(owners[node])
        elif node not in seen:
            seen.add(node)
            stack.extend(following for following, _ in node.next_functions if following is not None)
    return frozenset(heads)
