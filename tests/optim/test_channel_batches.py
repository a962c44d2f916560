"""Large weights of several shapes that take the step together: beside the loop, and at the edges."""

import copy
from dataclasses import dataclass

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from pliant.optim import (
    SFW,
    DiameterScaled,
    FastGradientScaled,
    GradientScaled,
    NonFinite,
    Raw,
    Shrinkage,
    StepRule,
)
from pliant.regions import Ball, Entries, Filters, Lp, TopK
from pliant.spec import register
from pliant.testing import HostReads

SHAPES = [(40, 900), (96, 48, 3, 3), (64, 130, 5), (48, 96, 3, 3), (20, 30)]
RULES = [GradientScaled(), FastGradientScaled(), DiameterScaled(), Raw(), Shrinkage(1.0, 20)]
GAUGES = [TopK(0.1), TopK(3), TopK(0.2, torch.inf), TopK(0.9), Lp(1.0), Lp(2.0)]


def params(shapes=SHAPES, dtype=torch.float32):
    draws = torch.Generator().manual_seed(0)
    return [nn.Parameter((0.02 * torch.randn(shape, generator=draws)).to(dtype)) for shape in shapes]


def groups(gauge=GAUGES[0], parameters=None):
    parameters = params() if parameters is None else parameters
    return [{"params": [p], "region": Ball(gauge, Filters(), 1.0 + 0.5 * i)} for i, p in enumerate(parameters)]


def everyone(optimizer):
    return [p for group in optimizer.param_groups for p in group["params"]]


def give(optimizer, seed, silent=(), scale=1.0):
    draws = torch.Generator().manual_seed(seed)
    for i, p in enumerate(everyone(optimizer)):
        grad = scale * torch.randn(p.shape, generator=draws, dtype=torch.float64)
        p.grad = None if i in silent else grad.to(p.dtype)


def run(optimizer, steps=5, silent=(), seed=0, scale=1.0):
    for number in range(steps):
        give(optimizer, seed + number, silent, scale)
        optimizer.step()
    return [p.detach().clone() for p in everyone(optimizer)]


def check_equal(xs, ys):
    for x, y in zip(xs, ys, strict=True):
        torch.testing.assert_close(x, y, atol=1e-7, rtol=1e-6)


class Calls(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: type(rule).__name__)
@pytest.mark.parametrize("gauge", GAUGES, ids=str)
def test_several_shapes_together_agree_with_the_loop(gauge, rule):
    together, loop = (SFW(groups(gauge), lr=0.1, step_rule=rule, foreach=foreach) for foreach in (None, False))
    check_equal(run(together), run(loop))
    for a, b in zip(together.diagnostics(), loop.diagnostics(), strict=True):
        assert a.step_size == pytest.approx(b.step_size, rel=1e-5)


@pytest.mark.parametrize("options", [{"dampening": 0.5}, {"momentum": 0.0}, {"nonfinite": NonFinite.SKIP}], ids=str)
def test_every_way_to_keep_momentum_agrees_with_the_loop(options):
    together, loop = (SFW(groups(), lr=torch.tensor(0.1), foreach=foreach, **options) for foreach in (None, False))
    check_equal(run(together, silent={1}), run(loop, silent={1}))
    check_equal(run(together, seed=9), run(loop, seed=9))


def test_points_of_other_rates_and_dtypes_keep_their_own():
    def mixed():
        parts = groups(parameters=[*params(SHAPES[:3]), *params(SHAPES[:3], torch.float64)])
        parts[0]["lr"] = torch.tensor(0.05)
        parts[1]["momentum"] = 0.5
        parts[4]["lr"] = 0.02
        return parts

    check_equal(run(SFW(mixed(), lr=0.1)), run(SFW(mixed(), lr=0.1, foreach=False)))


def test_channels_in_another_memory_order_move_as_those_in_the_usual_one():
    def order(layout):
        parameters = params([(96, 48, 3, 3), (48, 96, 3, 3)])
        return SFW(groups(parameters=[nn.Parameter(p.detach().to(memory_format=layout)) for p in parameters]), lr=0.1)

    usual, other = order(torch.contiguous_format), order(torch.channels_last)
    check_equal(run(usual), run(other))
    assert all(p.is_contiguous(memory_format=torch.channels_last) for p in everyone(other))


def test_one_more_shape_costs_less_than_half_of_the_calls_of_a_step_of_its_own():
    shapes = [(32 + i, 1100) for i in range(12)]
    found = {}
    for foreach in (None, False):
        optimizer = SFW(groups(parameters=params(shapes)), lr=0.1, foreach=foreach)
        run(optimizer, 2)
        with Calls() as calls:
            optimizer.step()
        found[foreach] = calls.count
    assert found[None] < 0.5 * found[False]


@pytest.mark.parametrize("scale", [0.0, 1e-30, 1e25])
@pytest.mark.parametrize("gauge", GAUGES, ids=str)
def test_gradients_whose_squares_leave_the_range_leave_finite_and_feasible_weights(gauge, scale):
    """A zero gradient once made 0 / 0 of the factor that the chosen filters are multiplied by."""
    optimizer = SFW(groups(gauge), lr=0.1, step_rule=Raw())
    with torch.no_grad():
        for group in optimizer.param_groups:
            p = group["params"][0]
            p.copy_(group["region"].scale_into(p))
    assert all(x.isfinite().all() for x in run(optimizer, 3, scale=scale))
    assert all(seen.value <= seen.radius * (1 + 1e-5) for seen in optimizer.diagnostics())


@pytest.mark.parametrize("gauge", [TopK(0.1), TopK(0.1, torch.inf)], ids=str)
def test_a_large_zero_gradient_has_a_finite_vertex(gauge):
    vertex = Ball(gauge, Filters(), 1.0).vertex(torch.zeros(64, 600), {})[0]
    assert vertex.dense().isfinite().all()


def test_a_long_vector_seen_as_filters_moves_as_single_entries_do():
    def at(view):
        p = params([(40_000,)])
        return SFW([{"params": p, "region": Ball(TopK(300), view, 1.0)}], lr=0.1, exact=view == Entries())

    check_equal(run(at(Filters())), run(at(Entries())))


@pytest.mark.parametrize("policy", NonFinite)
def test_a_step_of_several_shapes_never_waits_for_the_device(policy):
    optimizer = SFW(groups(), lr=0.1, nonfinite=policy)
    run(optimizer, 1)
    with HostReads() as seen:
        optimizer.step()
    assert seen.reads.count("_local_scalar_dense") == (1 if policy is NonFinite.RAISE else 0)


def test_a_run_resumes_to_the_bit_and_a_skipped_step_leaves_no_trace():
    whole, first, second = (SFW(groups(), lr=0.1, nonfinite=NonFinite.SKIP) for _ in range(3))
    run(whole, 3)
    weights = run(first, 3)
    give(first, 99)
    everyone(first)[0].grad[0] = torch.inf
    first.step()
    assert all(torch.equal(a, b) for a, b in zip(weights, everyone(first), strict=True))
    with torch.no_grad():
        for p, weight in zip(everyone(second), weights, strict=True):
            p.copy_(weight)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    second.add_param_group({"params": params(SHAPES[:1]), "region": Ball(TopK(2), Filters(), 1.0)})
    count = len(SHAPES)
    assert all(torch.equal(a, b) for a, b in zip(run(whole, 3, seed=5), run(second, 3, seed=5)[:count], strict=True))


@register
@dataclass(frozen=True)
class ByWeights(StepRule):
    """A rule of somebody else, which looks at the weights themselves."""

    def factor(self, now):
        return now.weights[0].abs().flatten(1).amax(1)


def test_a_rule_that_looks_at_weights_is_asked_shape_by_shape():
    together, loop = (SFW(groups(), lr=0.1, step_rule=ByWeights(), foreach=foreach) for foreach in (None, False))
    check_equal(run(together), run(loop))


@pytest.mark.slow
@pytest.mark.timeout(900)  # the compiler takes its time
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # of the compiler about itself
def test_a_compiled_step_of_several_shapes_is_the_eager_one():
    eager, compiled = (
        SFW(groups(parameters=params(SHAPES[:2])), lr=torch.tensor(0.1), nonfinite=NonFinite.IGNORE) for _ in range(2)
    )
    step = torch.compile(compiled.step)
    for number in range(4):
        for optimizer in (eager, compiled):
            give(optimizer, number)
        eager.step()
        step()
    for a, b in zip(everyone(eager), everyone(compiled), strict=True):
        torch.testing.assert_close(a.detach(), b.detach(), atol=1e-6, rtol=1e-5)
