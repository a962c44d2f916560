"""What needs the whole of a tensor gets it, on one rank each: maps, plans, diagnostics, oracles of any region."""

import math
from dataclasses import dataclass

import pytest
import scenes
import torch
import torch.distributed as dist
from process_ranks import on_ranks
from scenes import REPLICATE, SHARD0
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from pliant.optim import SFW
from pliant.optim.change import change_wholes
from pliant.optim.exchange import Piece, share_out
from pliant.optim.oracle import Oracle
from pliant.regions import Coupled, Entries, Filters, Lp, Penalty, Region, Singular, TopK, l2_ball
from pliant.regions.vertex import Product
from pliant.sharding import part_of, sharded_like, whole
from pliant.spec import register
from pliant.structure import Constraint, InitScaled, Plan, Rule

SHAPES = [(10, 3, 3, 3), (7, 5), (5,), (), (1, 6)]
PENALTIES = [Penalty(TopK(1), Filters(), 0.5), Penalty(TopK(1), Singular(), 0.3), Penalty(TopK(1), Entries(), 0.1)]


def shrunk(placements, mesh):
    params = [scenes.placed(scenes.start(i, shape), placements, mesh) for i, shape in enumerate(SHAPES)]
    done = []

    def prox(n, point, penalty):
        done.append(n)
        return [penalty.prox(point[0], 0.2)]

    for penalty in PENALTIES:
        change_wholes([[p] for p in params], lambda n, point, penalty=penalty: prox(n, point, penalty))
    pair = [scenes.placed(scenes.start(i, (7, 3)), placements, mesh) for i in (8, 9)]
    joint = Penalty(Lp(2.0), Coupled((Filters(), Filters())), 1.0)
    change_wholes([pair], lambda _, point: joint.prox(tuple(point), 0.2))
    return [whole(p).detach() for p in (*params, *pair)], done


@pytest.mark.slow
@pytest.mark.parametrize(
    ("world", "placements", "mesh"),
    [(2, [SHARD0], (2,)), (4, [SHARD0], (4,)), (4, [REPLICATE, SHARD0], (2, 2)), (4, [SHARD0, SHARD0], (2, 2))],
)
def test_proximal_maps_of_sharded_weights_are_those_of_whole_ones(world, placements, mesh):
    expected, _ = shrunk(None, None)
    for found, _ in on_ranks(world, shrunk, placements, mesh):
        torch.testing.assert_close(found, expected, atol=1e-14, rtol=1e-12)


def counted():
    """Count the oracle's answers of each rank in one step."""
    made = scenes.scene("fsdp", "rank")
    answer, count = Oracle.vertices, []
    Oracle.vertices = lambda self, *args: count.append(self.points[0].names) or answer(self, *args)
    try:
        scenes.train(made, 1)
    finally:
        Oracle.vertices = answer
    _, done = shrunk([SHARD0], (dist.get_world_size(),))
    points = sum(1 for group in made.optimizer.param_groups if group["region"] is not None)
    return count, points, done


@pytest.mark.slow
def test_no_rank_does_the_work_of_another():
    (first, points, mapped), (second, _, others) = on_ranks(2, counted)
    assert not set(first) & set(second)
    assert len(first) + len(second) == points
    assert first
    assert second
    whole_shapes = sum(1 for shape in SHAPES if shape)
    assert len(mapped) + len(others) == len(PENALTIES) * (whole_shapes + 2 * (len(SHAPES) - whole_shapes))


def test_slices_are_those_of_torch_chunk():
    for length in (1, 2, 5, 8, 9):
        for size in (1, 2, 3, 4, 7):
            x = torch.arange(length)
            piece = Piece((length,), 0, 0)
            chunks = [x.narrow(0, *piece.slice_of(rank, size)) for rank in range(size)]
            assert torch.equal(torch.cat(chunks), x)
            expected = x.chunk(size)
            assert [c.tolist() for c in chunks[: len(expected)]] == [c.tolist() for c in expected]
            assert all(len(c) == 0 for c in chunks[len(expected) :])


def test_work_is_spread_evenly():
    costs = [5.0, 1.0, 4.0, 2.0, 3.0, 3.0]
    owners = share_out(costs, 3)
    assert [sum(c for c, o in zip(costs, owners, strict=True) if o == rank) for rank in range(3)] == [6.0, 6.0, 6.0]
    assert set(share_out([1.0], 4)) == {0}


class WithToken(nn.Module):
    """A parameter that no layer of torch initialises: its radius is measured."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.token = nn.Parameter(torch.randn(5, 3))
        self.layer = nn.Linear(3, 4)


RULES = [Rule(Constraint(TopK(2), Filters, InitScaled(0.05)), name="token"), Rule(Constraint(Lp(2.0)), name="*")]


def planned(sharded):
    model = WithToken()
    if sharded:
        fully_shard(model, mesh=init_device_mesh("cpu", (dist.get_world_size(),)))
    plan = Plan.from_rules(model, RULES)
    moved = plan.make_feasible()
    plan.scale_weights(0.5)
    optimizer = SFW(plan, lr=0.1)
    for i, p in enumerate(model.parameters()):
        grad = scenes.gradient(0, i, p.shape).float()
        p.grad = sharded_like(part_of(grad, p), p) if sharded else grad
    optimizer.step()
    return plan.to_json(), str(plan), moved, optimizer.diagnostics(), [whole(p).detach() for p in model.parameters()]


@pytest.mark.slow
def test_plans_and_diagnostics_of_sharded_models_are_those_of_whole_ones():
    text, table, moved, diagnostics, weights = planned(False)
    assert [m.names for m in moved] == [("token",)]
    for found in on_ranks(2, planned, True):
        assert found[0] == text
        assert found[1] == table
        assert found[2] == moved
        torch.testing.assert_close(found[4], weights)
        for a, b in zip(found[3], diagnostics, strict=True):
            assert a.names == b.names
            numbers = [getattr(a, key) for key in ("gap", "step_size", "value", "radius", "quality")]
            assert numbers == pytest.approx(
                [getattr(b, key) for key in ("gap", "step_size", "value", "radius", "quality")]
            )


@register
@dataclass(frozen=True)
class Box(Region):
    """A region of somebody else's, which remembers a plain number."""

    radius: float
    arity = 1

    def value(self, x):
        return x.abs().max()

    def dual(self, g):
        return g.abs().sum()

    def vertex(self, g, state=None):
        if state is not None:
            state["calls"] = state.get("calls", 0) + 1
        return (Product(-self.radius * g.sign(), torch.ones((1,) * g.ndim, dtype=g.dtype), 0, own=True),)

    def project(self, x):
        return x.clamp(-self.radius, self.radius)

    def diameter(self, shape):
        return 2 * self.radius * math.sqrt(math.prod(shape))

    def scale_into(self, x):
        return x * min(1.0, self.radius / float(self.value(x)))

    def contains(self, x, *, tol=1e-6):
        return bool(self.value(x) <= self.radius * (1 + tol))

    def gap(self, x, g):
        return (x * g).sum() + self.radius * self.dual(g)


def odd_ones(placements, mesh):
    """A region of somebody else's, and a joint point of which a part rests."""
    boxed = scenes.bare(
        [{"params": [0, 1], "region": Box(1.0)}], SHAPES[:2], 3, {}, placements=placements, mesh_shape=mesh
    )
    groups = [{"params": [0, 1], "region": scenes.joint_ball(2)}, {"params": [2], "region": l2_ball(1.0)}]
    rests = scenes.bare(groups, [(7, 3), (7,), (4, 4)], 3, {}, placements=placements, mesh_shape=mesh, silent={1, 2})
    return boxed, rests


@pytest.mark.slow
def test_foreign_regions_and_resting_parts_step_as_in_one_process():
    expected = odd_ones(None, None)
    for found in on_ranks(2, odd_ones, [SHARD0], (2,)):
        for a, b in zip(found, expected, strict=True):
            torch.testing.assert_close(a.weights, b.weights, atol=1e-13, rtol=1e-10)
            assert [m.get("calls") for m in a.memories] == [m.get("calls") for m in b.memories]
