"""One run of a model in which every tensor is shadowed by its labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakIdKeyDictionary

from pliant.structure.channels import elementwise, movement, products, reductions, scattering
from pliant.structure.channels.fields import fields_of
from pliant.structure.channels.labels import Labels
from pliant.structure.channels.operation import Operation, Rule, not_understood
from pliant.structure.channels.shadow import Shadow

_RULES: dict[object, Rule] = {
    **elementwise.RULES,
    **movement.RULES,
    **products.RULES,
    **reductions.RULES,
    **scattering.RULES,
}


class Tracer(TorchDispatchMode):
    """Follows labels through every operator that runs inside `with`.

    Args:
        labels: where what is found goes.

    Attributes:
        used: names of the parameters and buffers with labels that an operator was given.
        called: names of the modules that ran.
    """

    def __init__(self, labels: Labels) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.labels = labels
        self.where: list[str] = []
        self.used: set[str] = set()
        self.called: set[str] = set()
        self._recurrent: set[str] = set()  # they make states as wide as their attributes say
        self._names: Any = WeakIdKeyDictionary()
        self._shadows: Any = WeakIdKeyDictionary()

    def root(self, name: str, tensor: Tensor, layers: Sequence[Tensor], *, table: bool) -> None:
        """Give a parameter or buffer its labels, one vector per dimension; a table follows others."""
        self._names[tensor] = name
        shape = tuple(tensor.shape)
        fields = fields_of(shape, layers)
        self._shadows[tensor] = Shadow(shape, () if table else fields, learnt=True, tables=fields if table else ())

    def read(self, tensor: Tensor) -> Shadow:
        """Return the shadow of a tensor; whoever reads it lets its claims come true."""
        shape = tuple(tensor.shape)
        shadow: Shadow = self._shadows.get(tensor, Shadow(shape))
        if shadow.shape != shape:  # code gave a buffer another size, behind the operators' back
            return Shadow(shape)
        for claim in shadow.claims:
            self.labels.merge(claim.layer, claim.dims, claim.reason)
        return shadow

    def watch(self, model: nn.Module) -> None:
        """Let every module of a model say when it runs; the hooks stay."""
        for name, module in model.named_modules():
            if isinstance(module, nn.RNNBase | nn.RNNCellBase):
                self._recurrent.add(name)
            module.register_forward_pre_hook(lambda *_, name=name: self._enter(name))
            module.register_forward_hook(lambda *_: self._leave(), always_call=True)

    def _enter(self, name: str) -> None:
        self.where.append(name)
        self.called.add(name)

    def _leave(self) -> None:
        self.where.pop()

    def __torch_dispatch__(
        self,
        func: Any,  # noqa: ANN401  (an OpOverload)
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401  (whatever the operator returns)
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        outputs = tuple(leaf for leaf in pytree.tree_leaves(result) if isinstance(leaf, Tensor))
        given = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        if not any(tensor in self._shadows for tensor in given):
            if func.overloadpacket in elementwise.MADE and not (self.where and self.where[-1] in self._recurrent):
                self._shadows[result] = elementwise.made(result, self.labels)
            return result
        self.used.update(self._names[tensor] for tensor in given if tensor in self._names)
        if outputs:
            self._follow(func, args, kwargs, outputs)
        else:
            for tensor in given:
                self.read(tensor)
        return result

    def _follow(
        self,
        func: Any,  # noqa: ANN401  (an OpOverload)
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        outputs: tuple[Tensor, ...],
    ) -> None:
        where = self.where[-1] if self.where else ""
        bound, positional = _bound(func, args, kwargs)
        name = func.overloadpacket._qualified_op_name.replace("::", ".")  # noqa: SLF001  (no public name)
        operation = Operation(name, bound, positional, outputs, self.labels, where, self.read)
        rule = _RULES.get(func.overloadpacket)
        if rule is None:
            rule = elementwise.elementwise if torch.Tag.pointwise in func.tags else not_understood
        shadows = rule(operation)
        for output, shadow in zip(outputs, [shadows] if isinstance(shadows, Shadow) else shadows, strict=True):
            self._shadows[output] = shadow.lively()


def _bound(
    func: Any,  # noqa: ANN401  (an OpOverload)
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> tuple[dict[str, Any], tuple[Any, ...]]:
    bound, positional = {}, []
    for index, argument in enumerate(func._schema.arguments):  # noqa: SLF001  (no public way)
        value = args[index] if index < len(args) else kwargs.get(argument.name, argument.default_value)
        bound[argument.name] = value
        if not argument.kwarg_only:
            positional.append(value)
    return bound, tuple(positional)
