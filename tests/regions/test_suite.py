# ruff: noqa: ARG001, ARG002, ARG005  (stand-ins have the signatures of what they replace)
"""The law suite must catch what it is for: each broken region breaks the law named beside it."""

from dataclasses import dataclass
from typing import Any

import pytest
import torch

from pliant.regions import Ball, Entries, Filters, Region, Singular, TopK, k_support_ball
from pliant.testing import HostReads, LawViolation, check_region
from pliant.testing.case import of
from pliant.testing.laws import form, norms, oracle, projection

SOUND = k_support_ball(2, 1.5)


@dataclass(frozen=True)
class Broken(Region):
    """A k-support ball with one method replaced."""

    changes: Any
    radius: float = 1.5
    ball: Ball = SOUND
    arity: int = 1

    def __getattribute__(self, name):
        changes = object.__getattribute__(self, "changes")
        if name in changes:
            return lambda *args, **kwargs: changes[name](self.ball, *args, **kwargs)
        return object.__getattribute__(self, name)

    def value(self, x):
        return self.ball.value(x)

    def dual(self, g):
        return self.ball.dual(g)

    def vertex(self, g, state=None):
        return self.ball.vertex(g, state)

    def project(self, x):
        return self.ball.project(x)

    def diameter(self, shape):
        return self.ball.diameter(shape)

    def scale_into(self, x):
        return self.ball.scale_into(x)

    def contains(self, x, *, tol=1e-6):
        return self.ball.contains(x, tol=tol)

    def gap(self, x, g):
        return self.ball.gap(x, g)


def nan_at_zero(ball, g, state=None):
    return ball.lmo(g) * (g.sum() / g.sum())


def in_place(ball, g, state=None):
    result = ball.lmo(g)
    g.mul_(2.0)
    return result


def fixed_threshold(ball, g, state=None):
    return torch.where(g.norm() > 1e-3, ball.lmo(g), 0.0)


def syncing(ball, g, state=None):
    return ball.lmo(g) if float(g.sum()) else g


def masking(ball, g, state=None):
    g[g > 100.0].sum()
    return ball.lmo(g)


def listing(ball, g, state=None):
    g.sum().tolist()
    return ball.lmo(g)


DEFECTS = [
    ("value", lambda b, x: x.sum(), norms.value_is_a_norm),
    ("value", lambda b, x: b.value(x.clamp_min(0)), norms.value_is_a_norm),
    ("value", lambda b, x: b.value(x) ** 2, norms.value_is_a_norm),
    ("dual", lambda b, g: 1.01 * b.dual(g), oracle.lmo_attains_dual),
    ("dual", lambda b, g: 0.9 * b.dual(g), norms.hoelder),
    ("dual", lambda b, g: b.dual(g) + 1e-3, norms.dual_is_a_norm),
    ("lmo", lambda b, g, state=None: -b.lmo(g), oracle.lmo_is_optimal),
    ("lmo", lambda b, g, state=None: 1.01 * b.lmo(g), oracle.lmo_is_feasible),
    ("lmo", lambda b, g, state=None: 0.9 * b.lmo(g), norms.vertices_are_on_the_boundary),
    ("lmo", nan_at_zero, oracle.lmo_of_zero_is_feasible),
    ("lmo", fixed_threshold, oracle.lmo_ignores_scale),
    ("lmo", syncing, oracle.lmo_never_reads_host),
    ("lmo", masking, oracle.lmo_never_reads_host),
    ("lmo", listing, oracle.lmo_never_reads_host),
    ("lmo", in_place, form.arguments_are_untouched),
    ("lmo", lambda b, g, state=None: b.lmo(g).double(), form.results_match_arguments),
    ("lmo", lambda b, g, state=None: b.lmo(g).flatten(), form.results_match_arguments),
    ("project", lambda b, x: b.scale_into(x), projection.project_is_nearest),
    ("project", lambda b, x: 0.99 * b.project(x), projection.project_keeps_feasible_points),
    ("project", lambda b, x: 1.01 * b.project(x), projection.project_is_feasible),
    ("project", lambda b, x: b.lmo(-x), projection.project_keeps_feasible_points),
    ("gap", lambda b, x, g: b.dual(g), norms.gap_is_its_definition),
    ("gap", lambda b, x, g: -b.gap(x, g), norms.gap_is_nonnegative),
    ("contains", lambda b, x, tol=0: bool(x.sum() < 1), norms.contains_agrees_with_value),
    ("scale_into", lambda b, x: b.project(x), norms.scale_into_is_radial),
    ("diameter", lambda b, shape: 0.99 * b.diameter(shape), norms.diameter_bounds_distances),
    ("diameter", lambda b, shape: 1.01 * b.diameter(shape), norms.diameter_is_attained),
]


def test_the_stand_in_itself_is_sound():
    check_region(Broken({}), (4, 3), trials=1)


@pytest.mark.parametrize(("method", "change", "law"), DEFECTS)
def test_each_defect_is_caught_by_its_law(method, change, law):
    case = of(Broken({method: change}), (4, 3))
    with pytest.raises(LawViolation, match=r"found .*, allowed .*Broken"):
        law(case)


def test_selecting_ties_by_threshold_is_caught():
    @dataclass(frozen=True)
    class ByThreshold(Ball):
        def lmo(self, g, state=None):
            norms = g.norm(dim=-1, keepdim=True)
            top = torch.where(norms >= norms.flatten().sort().values[-2], g, 0.0)
            return -top / top.norm().clamp_min(1e-30)

    with pytest.raises(LawViolation, match="at most k atoms"):
        oracle.lmo_is_sparse(of(ByThreshold(TopK(2), Filters(), 1.0), (4, 3)))


def test_host_reads_of_every_kind_are_seen():
    x = torch.arange(4.0)
    for read in (
        lambda: bool(x.sum()),
        lambda: float(x.sum()),
        lambda: int(x.sum()),
        lambda: x.sum().item(),
        x.tolist,
        x.numpy,
        x.nonzero,
        lambda: x[x > 1],
        lambda: torch.equal(x, x),
        lambda: torch.allclose(x, x),
        lambda: torch.masked_select(x, x > 1),
        lambda: torch.where(x > 1),
        x.unique,
        lambda: torch.repeat_interleave(x.long()),
        lambda: [0, 1, 2, 3][x[1].long()],
        lambda: torch.linalg.inv(torch.eye(2)),
    ):
        with HostReads() as seen:
            read()
        assert seen.reads


def test_what_is_not_a_host_read_is_not_reported():
    x = torch.randn(4, 3)
    with HostReads() as seen:
        torch.where(x > 0, x, 0.0).topk(2).values.sum()
        x[torch.tensor([0, 1])]
        assert x.shape[0] == 4
    assert seen.reads == []


def test_the_oracles_factorise_at_most_twice_whatever_the_groups():
    for k in (1, 3):
        with HostReads() as seen:
            Ball(TopK(k), Singular(), 1.0).lmo(torch.randn(12, 40))
        assert seen.factorisations <= 2
        with HostReads() as seen:
            Ball(TopK(k), Entries(), 1.0).lmo(torch.randn(12, 40))
        assert seen.factorisations == 0


def test_the_suite_leaves_the_global_random_state_alone():
    before = torch.get_rng_state()
    check_region(k_support_ball(2, 1.0), (3, 2), trials=1)
    assert torch.equal(before, torch.get_rng_state())
