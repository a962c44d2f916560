"""Multiply-accumulates of the operators that torch's own counter of FLOPs takes for nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod

import torch

Shape = Sequence[int]


def product(a: Shape, b: Shape) -> int:
    """Products of vectors and matrices, ``(..., k) x (k,)`` or ``(..., n, k) x (..., k, m)``."""
    return prod(a) * (b[-1] if len(b) > 1 else 1)


def added(_: Shape, a: Shape, b: Shape) -> int:
    """The same with a summand before them."""
    return product(a, b)


def grouped(a: Shape, b: Shape) -> int:
    """`grouped_mm`: where one of the two is a matrix, each of its rows or columns belongs to one group."""
    groups = a[0] if len(a) == len(b) == 3 else 1
    return groups * product(a[-2:], b)


def outer(_: Shape, a: Shape, b: Shape) -> int:
    """`addr`, ``(n,) x (m,)``."""
    return prod(a) * prod(b)


def trilinear(a: Shape, b: Shape, c: Shape, *places: Sequence[int]) -> int:
    """`nn.Bilinear`: the first two are multiplied and summed over what the third lacks, then by the third.

    For ``x1 (N, i)``, weight ``(o, i, j)`` and ``x2 (N, j)`` that is ``N o i j + N o j``, what `torch.einsum` takes for
    the same.
    """
    expand_a, expand_b, expand_c, sums = places
    one, other, last = _expanded(a, expand_a), _expanded(b, expand_b), _expanded(c, expand_c)
    whole = [max(sizes) for sizes in zip(one, other, last, strict=True)]
    first = [max(sizes) for sizes in zip(one, other, strict=True)]
    second = [1 if n in sums and n in expand_c else size for n, size in enumerate(whole)]
    return prod(first) + prod(second)


def distances(a: Shape, b: Shape, p: float = 2.0) -> int:
    """`cdist` of ``(..., n, d)`` and ``(..., m, d)``: d squares for each pair; norms but p = 2 have no products."""
    batch = torch.broadcast_shapes(a[:-2], b[:-2])
    return prod(batch) * a[-2] * b[-2] * a[-1] if p == 2.0 else 0


def time_first(x: Shape, weight: Shape, _: Shape, pad: int = 0) -> int:
    """`conv_tbc` of ``(time, batch, in)`` with ``(k, in, out)``."""
    return (x[0] + 2 * pad - weight[0] + 1) * x[1] * prod(weight)


def _expanded(shape: Shape, places: Sequence[int]) -> list[int]:
    sizes = list(shape)
    for place in sorted(places):
        sizes.insert(place, 1)
    return sizes


_COUNTS: Mapping[str, tuple[Callable[..., int], int]] = {  # and how many of the operator's arguments it reads
    "dot": (product, 2),
    "vdot": (product, 2),
    "mv": (product, 2),
    "_int_mm": (product, 2),
    "_grouped_mm": (grouped, 2),
    "addmv": (added, 3),
    "addbmm": (added, 3),
    "_addmm_activation": (added, 3),
    "addr": (outer, 3),
    "_trilinear": (trilinear, 7),
    "_euclidean_dist": (distances, 2),
    "_cdist_forward": (distances, 3),
    "conv_tbc": (time_first, 4),
}


def _flops(count: Callable[..., int], arguments: int) -> Callable[..., int]:
    def flops(*args: object, **_: object) -> int:
        return 2 * count(*args[:arguments])

    return flops


# For `FlopCounterMode(custom_mapping=...)`, which hands over shapes instead of tensors and counts FLOPs, two each.
# Names with an underscore are torch's own business: a version without one of them has nothing to count there.
UNCOUNTED = {
    getattr(torch.ops.aten, name): _flops(count, arguments)
    for name, (count, arguments) in _COUNTS.items()
    if hasattr(torch.ops.aten, name)
}
