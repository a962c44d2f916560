"""Hypothesis strategies for regions and the tensors they act on. Needs the extra `pliant[testing]`."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from pliant.regions import Axes, Ball, Entries, Filters, Gauge, Lp, Singular, TopK, View

try:
    from hypothesis import strategies as st
    from hypothesis.strategies import SearchStrategy
except ImportError as error:  # pragma: no cover
    raise ImportError("pliant.testing.strategies needs hypothesis: pip install 'pliant[testing]'") from error

T = TypeVar("T")


def shapes(*, max_side: int = 6, max_dims: int = 4) -> SearchStrategy[tuple[int, ...]]:
    """Shapes of weights: scalars, vectors, matrices and convolution kernels, sides of 1 included."""
    return st.lists(st.integers(1, max_side), max_size=max_dims).map(tuple)


def tensors_of(shape: Sequence[int], dtype: torch.dtype = torch.float32) -> SearchStrategy[Tensor]:
    """Tensors of small whole and fractional numbers, so that ties, zeros and negative entries are common."""
    number = st.one_of(
        st.integers(-3, 3).map(float),
        st.floats(-4.0, 4.0, allow_subnormal=False, width=32),
        st.sampled_from([1e-6, -1e-6, 1e-12, 1e6]),
    )
    count = math.prod(shape)
    return st.lists(number, min_size=count, max_size=count).map(
        lambda numbers: torch.tensor(numbers, dtype=dtype).reshape(tuple(shape))
    )


def gauges() -> SearchStrategy[Gauge]:
    """Every kind of gauge: counts, fractions, both ends of p."""
    k = st.one_of(st.integers(1, 12), st.floats(0.01, 1.0))
    top = st.builds(TopK, k, st.sampled_from([2.0, math.inf]))
    p = st.sampled_from([1.0, 1.05, 1.5, 2.0, 3.0, 7.0, math.inf])
    return st.one_of(top, st.builds(Lp, p))


def views(shape: Sequence[int]) -> SearchStrategy[View]:
    """Views of one tensor of this shape, with every `Axes` that fits."""
    outs = range(len(shape)) if len(shape) > 1 else range(1)
    groups = [g for g in range(1, 1 + (shape[0] if shape else 1)) if not shape or shape[0] % g == 0]
    axes = st.builds(Axes, st.sampled_from(list(outs)), st.sampled_from(groups))
    kinds: list[Callable[[Axes], View]] = [lambda _: Entries(), Filters, Singular]
    return st.tuples(st.sampled_from(kinds), axes).map(lambda pair: pair[0](pair[1]))


def balls(shape: Sequence[int]) -> SearchStrategy[Ball]:
    """Balls over one tensor of this shape."""
    return st.builds(Ball, gauges(), views(shape), st.sampled_from([0.25, 1.0, 30.0]))
