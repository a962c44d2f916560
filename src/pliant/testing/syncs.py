"""Counting the places where the host would wait for a device, on any device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

# Operators whose result, or whose shape of the result, the host must read.
READS = frozenset(
    {
        "_local_scalar_dense", "item", "is_nonzero", "equal", "allclose", "nonzero", "nonzero_numpy", "argwhere",
        "masked_select", "_linalg_check_errors", "_unique", "_unique2", "unique_dim", "unique_consecutive", "bincount",
        "histc", "_assert_async", "_to_cpu",
    }
)  # fmt: skip
# Methods that read without an operator when the tensor is on the CPU already. `bool`, `float` and `int` of a tensor
# are `_local_scalar_dense` above.
METHODS = frozenset({"tolist", "numpy", "cpu", "__array__", "__bool__", "__float__", "__int__", "__index__", "item"})
# Factorisations that read their own error flag once a call; torch has no other exact ones.
FACTORISATIONS = frozenset({"_linalg_svd", "_linalg_eigh", "linalg_eig", "linalg_lstsq"})


class HostReads:
    """Context manager: `reads` lists what the host reads inside it, `factorisations` counts those of torch.

    >>> with HostReads() as seen:
    ...     _ = float(torch.ones(2).sum())
    >>> seen.reads
    ['__float__', '_local_scalar_dense']
    """

    def __init__(self) -> None:
        self.reads: list[str] = []
        self.factorisations = 0
        self._modes: tuple[TorchFunctionMode, TorchDispatchMode] = (_Methods(self), _Operators(self))

    def __enter__(self) -> Self:
        for mode in self._modes:
            mode.__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: object) -> None:
        for mode in reversed(self._modes):
            mode.__exit__(*error)  # type: ignore[no-untyped-call]


class _Methods(TorchFunctionMode):
    def __init__(self, seen: HostReads) -> None:
        super().__init__()
        self.seen = seen

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> object:
        name = getattr(func, "__name__", "")
        if name in METHODS:
            self.seen.reads.append(name)
        return func(*args, **(kwargs or {}))


class _Operators(TorchDispatchMode):
    def __init__(self, seen: HostReads) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen = seen

    def __torch_dispatch__(
        self,
        func: Any,  # noqa: ANN401  (an OpOverload)
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> object:
        name = func.overloadpacket.__name__
        if name in READS or _by_mask(name, args) or _repeats(func):
            self.seen.reads.append(name)
        if name in FACTORISATIONS:
            self.seen.factorisations += 1
        return func(*args, **(kwargs or {}))


def _by_mask(name: str, args: tuple[Any, ...]) -> bool:
    """Tell whether this is indexing with a boolean mask, whose result has a shape that only its values know."""
    return name == "index" and any(index is not None and index.dtype in {torch.bool, torch.uint8} for index in args[1])


def _repeats(func: Any) -> bool:  # noqa: ANN401  (an OpOverload)
    return bool(func is torch.ops.aten.repeat_interleave.Tensor)
