"""Examples: what a model is called with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

# A tensor, positional arguments, or keyword arguments such as those that tokenizers return.
Example = Tensor | Sequence[Any] | Mapping[str, Any]


def call(model: nn.Module, example: Example) -> object:
    """Run the model on an example.

    Raises:
        ValueError: if the example is neither a tensor nor a sequence nor a mapping.
    """
    if isinstance(example, Tensor):
        return model(example)
    plain = _plain(example)
    return model(**plain) if isinstance(plain, dict) else model(*plain)


def leaves_of(example: Example) -> list[Any]:
    """Return what an example holds, in order, whatever it is nested in."""
    return pytree.tree_leaves(_plain(example))


def mapped(example: Example, change: Callable[[Any], Any]) -> Example:
    """Return an example with everything that it holds changed."""
    changed: Example = pytree.tree_map(change, _plain(example))
    return changed


def batch_size(example: Example) -> int | None:
    """Return the first dimension of the first tensor; None if there is no tensor with dimensions."""
    sizes = (int(leaf.shape[0]) for leaf in leaves_of(example) if isinstance(leaf, Tensor) and leaf.ndim)
    return next(sizes, None)


def resized(example: Example, old: int, new: int) -> Example:
    """Return an example with another batch size: its samples over again, last first.

    Args:
        example: left as it is.
        old: its batch size; tensors whose first dimension is another stay as they are.
        new: the batch size to be.
    """
    order = torch.arange(new - 1, -1, -1) % old if new != old else torch.arange(old)

    def resize(leaf: Any) -> Any:  # noqa: ANN401  (any part of an example)
        return leaf[order.to(leaf.device)] if is_batched(leaf, old) else leaf

    return mapped(example, resize)


def is_batched(leaf: object, size: int) -> bool:
    """Tell whether a part of an example is a tensor of so many samples."""
    return isinstance(leaf, Tensor) and leaf.ndim > 0 and leaf.shape[0] == size


def _plain(example: Example) -> Tensor | tuple[Any, ...] | dict[str, Any]:
    if isinstance(example, Tensor):
        return example
    if isinstance(example, Mapping):
        return dict(example)
    if isinstance(example, Sequence) and not isinstance(example, str | bytes):
        return tuple(example)
    raise ValueError(
        "an example or batch must be a tensor, a sequence of positional arguments or a mapping of keyword arguments, "
        f"found {type(example).__name__}" + _HINTS.get(type(example).__name__, "")
    )


_HINTS = {"ndarray": ": torch.as_tensor makes a tensor of it"}
