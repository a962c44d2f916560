"""Compact vertices against their dense copies, next to the vertex and far from it, and the bytes that they allocate."""

import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from pliant.regions import (
    CATALOGUE,
    Axes,
    Ball,
    Channels,
    Filters,
    LowRank,
    Product,
    Singular,
    TopK,
    group_k_support_ball,
    k_support_ball,
    l2_ball,
    spectral_k_support_ball,
)

LARGE = (300, 200)
SHAPES = [(), (7,), (6, 5), (8, 4, 3, 3), LARGE]


def every(radius):
    for name, make in CATALOGUE.items():
        options = {"k": 0.2} if "-k-" in f"-{name}" else {"p": 3.0} if name == "lp-ball" else {}
        yield pytest.param(make(radius=radius, **options), id=name)


def normal(shape, seed, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def test_a_spatial_reading_has_vertices_of_its_own():
    shape, axes = (6, 4, 3, 3), Axes(spatial=True)
    g, x, alpha = normal(shape, 0), normal(shape, 1), torch.tensor(0.3)
    (v,) = Ball(TopK(2), Singular(axes), 2.0).vertex(g, None)
    dense = v.dense()
    assert int(torch.linalg.matrix_rank(axes.to_matrices(dense)[0], rtol=1e-5)) == 2
    assert int(torch.linalg.matrix_rank(dense.flatten(1), rtol=1e-5)) > 2
    found = x.clone()
    v.lerp_into(found, alpha)
    torch.testing.assert_close(found, torch.lerp(x, dense, alpha), atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match="one row per filter"):
        Filters(axes)


@pytest.mark.parametrize("state", [None, {}], ids=["exact", "warm"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("ball", list(every(2.0)))
def test_moving_toward_a_compact_vertex_is_moving_toward_its_dense_copy(ball, shape, state):
    g, x, alpha = normal(shape, 0), normal(shape, 1), torch.tensor(0.3)
    (v,) = ball.vertex(g, None if state is None else {})
    dense = v.dense()
    found = x.clone()
    v.lerp_into(found, alpha)
    torch.testing.assert_close(found, torch.lerp(x, dense, alpha), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(v.times(-2.0).dense(), -2.0 * dense)
    distance, move = v.measure(x)
    torch.testing.assert_close(distance, (x - dense).norm(), atol=0.0, rtol=1e-5)
    found = x.clone()
    move.lerp_into(found, alpha)
    torch.testing.assert_close(found, torch.lerp(x, dense, alpha), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("shape", [(6, 5), LARGE], ids=str)
@pytest.mark.parametrize("ball", list(every(2.0)))
def test_the_distance_is_accurate_next_to_the_vertex(ball, shape):
    g = normal(shape, 0)
    (v,) = ball.vertex(g, {})
    dense = v.dense()
    for size in (1e-1, 1e-3, 1e-4):
        x = dense + size * normal(shape, 2) / math.sqrt(g.numel())
        exact = (x.double() - dense.double()).norm()
        (again,) = ball.vertex(g, {})
        found, _ = again.measure(x)
        # What is left is the rounding of the vertex itself, entry by entry.
        assert float((found - exact).abs()) <= 1e-6 * float(dense.norm()) + 1e-4 * float(exact)


def test_filters_entries_and_ranks_have_their_own_forms():
    g = normal(LARGE, 0)
    assert isinstance(group_k_support_ball(0.1, 1.0).vertex(g, {})[0], Channels)
    assert isinstance(group_k_support_ball(0.9, 1.0).vertex(g, {})[0], Product)
    assert isinstance(k_support_ball(0.1, 1.0).vertex(g, {})[0], Product)
    assert isinstance(spectral_k_support_ball(0.1, 1.0).vertex(g, {})[0], LowRank)


@pytest.mark.parametrize("axes", [Axes(), Axes(groups=2), Axes(out=1), Axes(out=1, groups=2)])
def test_filters_of_large_tensors_are_those_of_small_ones(axes):
    g = normal((40, 30, 6, 6), 0)
    ball = Ball(TopK(0.1), Filters(axes), 2.0)
    torch.testing.assert_close(ball.lmo(g, {}), ball.lmo(g))


class Bytes(TorchDispatchMode):
    """Counts the bytes of new memory that operators return."""

    def __init__(self):
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        del types
        given = {x.untyped_storage().data_ptr() for x in args if isinstance(x, torch.Tensor)}
        given |= {x.untyped_storage().data_ptr() for x in (kwargs or {}).values() if isinstance(x, torch.Tensor)}
        result = func(*args, **(kwargs or {}))
        for x in result if isinstance(result, tuple | list) else [result]:
            if isinstance(x, torch.Tensor) and x.untyped_storage().data_ptr() not in given:
                self.total += x.untyped_storage().nbytes()
        return result


@pytest.mark.parametrize(
    ("ball", "tensors"),
    [
        (l2_ball(1.0), 0.0),
        (group_k_support_ball(0.1, 1.0), 0.4),  # the chosen filters, a few times
        (k_support_ball(0.1, 1.0), 1.1),
        (spectral_k_support_ball(0.05, 1.0), 2.0),  # factors of 28 of 400 directions
    ],
)
def test_a_step_toward_a_vertex_allocates_less_than_a_dense_copy_of_it_would(ball, tensors):
    g, x, state = normal((400, 1600), 0), normal((400, 1600), 1), {}
    ball.vertex(g, state)
    with Bytes() as seen:
        ball.vertex(g, state)[0].lerp_into(x, torch.tensor(0.1))
    assert seen.total <= (tensors + 0.25) * g.numel() * 4
