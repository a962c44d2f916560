"""Regions, shapes and tensors of Hypothesis: ties, zeros, tiny and huge entries."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pliant.regions import Ball
from pliant.spec import from_spec, to_spec
from pliant.testing.case import of
from pliant.testing.strategies import balls, shapes, tensors_of


@st.composite
def worlds(draw):
    shape = draw(shapes(max_side=4))
    return draw(balls(shape)), draw(tensors_of(shape)), draw(tensors_of(shape))


def check(ball, x, g):
    case = of(ball, tuple(x.shape))
    v = ball.lmo(g)
    size = case.length((v,)) * case.length((g,))
    assert v.isfinite().all()
    assert ball.contains(v, tol=case.slack)
    assert (case.dot((v,), (g,)) + ball.radius * ball.dual(g).double()).abs() <= case.slack * size
    bound = ball.value(x).double() * ball.dual(g).double()
    assert case.dot((x,), (g,)).abs() <= bound + case.slack * case.length((x,)) * case.length((g,))
    inside = ball.scale_into(x)
    assert ball.contains(inside, tol=case.slack)
    assert ball.gap(inside, g) >= -case.slack * case.length((g,)) * (case.length((inside,)) + case.length((v,)))
    assert case.length((inside - v,)) <= ball.diameter(x.shape) * (1 + case.slack)


@given(worlds())
@settings(max_examples=150)
def test_any_region_keeps_its_laws_on_any_tensor(world):
    check(*world)


@given(worlds())
@settings(max_examples=60)
def test_any_region_survives_its_spec(world):
    ball, _, g = world
    again = from_spec(to_spec(ball))
    assert again == ball
    assert torch.equal(again.lmo(g), ball.lmo(g))


@pytest.mark.slow
@given(worlds())
@settings(max_examples=300)
def test_deep_any_region_keeps_its_laws_on_any_tensor(world):
    check(*world)


@pytest.mark.slow
@given(worlds())
@settings(max_examples=100)
def test_deep_projections(world):
    ball, x, y = world
    case = of(ball, tuple(x.shape))
    p, inside = ball.project(x), ball.scale_into(y)
    assert isinstance(ball, Ball)
    assert ball.contains(p, tol=case.slack)
    ends = case.length((x - p,)) + case.length((inside - p,))
    assert (
        case.dot((x.double() - p.double(),), (inside.double() - p.double(),)) <= case.slack * case.length((x,)) * ends
    )
