"""SFW follows a model through its cut: its points stay points of their regions."""

from __future__ import annotations

import copy
import io
import math

import carrying
import pytest
import torch
from carrying import assert_one_way, batches, build, cut, masks, same_bits, sliced, small_of, train
from torch import nn

from pliant.compress.carry import CarryError, carry_over, move_optimizer
from pliant.compress.carry.regions import Change, refit
from pliant.optim import SFW, FastGradientScaled, GradientScaled, Shrinkage
from pliant.regions import (
    Axes,
    Ball,
    Coupled,
    Entries,
    Filters,
    Joint,
    Lp,
    Scaled,
    Singular,
    Slices,
    TopK,
    group_k_support_ball,
    l2_ball,
)
from pliant.structure.plan import Plan
from pliant.structure.treatment import Constraint

GAUGES = [TopK(1), TopK(3), TopK(0.4), TopK(1.0), TopK(0.4, math.inf), Lp(1.0), Lp(1.5), Lp(2.0), Lp(math.inf)]


def coupled_plan(model):
    example = torch.zeros(2, 3, 6, 6, dtype=model.stem.weight.dtype)
    return Plan.for_filters(model, k=0.4, coupled=True, example=example)


PLANS = {
    "filters": lambda model: Plan.for_filters(model, k=0.4),
    "filters, norms as rows": lambda model: Plan.for_filters(model, k=0.4, norms=Constraint(TopK(0.3))),
    "low rank": lambda model: Plan.for_low_rank(model, k=0.4),
    "coupled channels": coupled_plan,
    "unstructured": lambda model: Plan.for_unstructured(model, k=0.1),
}


def started(plan, dtype=torch.float32, **options):
    model = build(dtype)
    made = PLANS[plan](model)
    made.make_feasible()
    optimizer = SFW(made, lr=0.2, momentum=0.9, **options)
    for group in optimizer.param_groups:
        group["exact"] = True  # an oracle that starts from memory answers a little differently when that is gone
    return model, optimizer


@pytest.mark.parametrize("plan", PLANS)
def test_cut_and_continue_is_building_the_small_model_from_sliced_state(plan):
    model, optimizer = started(plan)
    train(model, optimizer, batches(3))
    small, reference = small_of(model), small_of(model)
    carried = carry_over(optimizer, model, small, cut()).optimizer
    groups = []
    for group in carried.param_groups:  # regions are the business of the other laws
        named = [(name, dict(reference.named_parameters())[name]) for name in group["param_names"]]
        groups.append({**{k: v for k, v in group.items() if k != "param_names"}, "params": named})
    built = SFW(groups, lr=0.2, momentum=0.9)
    carrying.rebuilt_state(optimizer, model, reference, built)
    data = batches(5, seed=8)
    assert same_bits(train(small, carried, data), train(reference, built, data))


@pytest.mark.parametrize(
    "rule", [GradientScaled(), FastGradientScaled(), Shrinkage(2.0, 10)], ids=lambda r: type(r).__name__
)
@pytest.mark.parametrize("plan", PLANS)
def test_the_small_model_goes_the_way_of_the_truncated_one(plan, rule):
    """The removed atoms are held at zero: so are their gradients, and so they choose no vertex."""
    model, optimizer = started(plan, torch.float64, step_rule=rule)
    train(model, optimizer, batches(3, torch.float64))
    small = small_of(model)
    carried = carry_over(optimizer, model, small, cut()).optimizer
    assert_one_way(model, optimizer, small, carried)
    assert carried.total_shrinkage() == pytest.approx(optimizer.total_shrinkage(), rel=1e-10)


@pytest.mark.parametrize("plan", PLANS)
def test_feasible_weights_stay_feasible(plan):
    model, optimizer = started(plan)
    train(model, optimizer, batches(3))
    small = small_of(model)
    move_optimizer(optimizer, model, small, cut())
    for _ in range(3):
        assert all(point.value <= point.radius * (1 + 1e-5) for point in optimizer.diagnostics())
        train(small, optimizer, batches(1))


def region_after(region, *names):
    """Carry one group with a region, and return the region that it has then."""
    model = build(torch.float64)
    named = dict(model.named_parameters())
    optimizer = SFW([{"params": [(name, named[name]) for name in names], "region": region}], lr=0.1)
    small = small_of(model)
    return model, small, carry_over(optimizer, model, small, cut()).optimizer.param_groups[0]["region"]


@pytest.mark.parametrize("gauge", GAUGES, ids=repr)
@pytest.mark.parametrize("name", ["stem.weight", "conv1.weight", "conv3.weight", "fc.weight", "bn.weight"])
@pytest.mark.parametrize("kind", [Entries, Filters, Singular])
def test_the_norm_of_the_sliced_weight_is_that_of_the_truncated_one_and_no_larger_than_before(gauge, name, kind):
    axes = () if kind is Entries else (Axes(groups=4),) if name == "conv3.weight" else (Axes(),)
    region = Ball(gauge, kind(*axes), 2.0)
    model, small, left = region_after(region, name)
    dense = model.get_parameter(name).detach()
    truncated = region.value(dense * masks(model)[name])
    torch.testing.assert_close(left.value(small.get_parameter(name).detach()), truncated, rtol=1e-12, atol=0)
    assert truncated <= region.value(dense) * (1 + 1e-12)
    assert left.radius == region.radius


@pytest.mark.parametrize("gauge", GAUGES, ids=repr)
def test_the_vertex_of_the_small_region_is_the_slice_of_the_large_ones(gauge):
    for kind in (Entries(), Filters(), Singular()):
        region = Ball(gauge, kind, 2.0)
        model, _, left = region_after(region, "conv1.weight")
        direction = masks(model)["conv1.weight"] * torch.randn(6, 8, 3, 3, dtype=torch.float64)
        expected = sliced("conv1.weight", region.lmo(direction))
        torch.testing.assert_close(left.lmo(sliced("conv1.weight", direction)), expected, rtol=1e-9, atol=1e-10)


def test_a_fraction_becomes_the_count_that_it_was_and_stays_a_fraction_where_that_is_the_same():
    assert region_after(group_k_support_ball(0.5, 3.0), "stem.weight")[2] == group_k_support_ball(4, 3.0)
    assert region_after(group_k_support_ball(0.5, 3.0), "fc.weight")[2] == group_k_support_ball(0.5, 3.0)
    assert region_after(group_k_support_ball(2, 3.0), "stem.weight")[2] == group_k_support_ball(2, 3.0)


def test_a_lost_group_of_a_convolution_is_lost_to_its_axes():
    _, _, left = region_after(Ball(TopK(2), Singular(Axes(groups=4)), 1.0), "conv3.weight")
    assert left.view == Singular(Axes(groups=2))


def test_coupled_atoms_are_cut_together():
    names = ("conv1.weight", "bn1.weight", "bn1.bias")
    view = Scaled(Coupled((Filters(), Filters(), Filters())), (0.5, 1.0, 2.0))
    model, small, left = region_after(Ball(TopK(0.5), view, 4.0), *names)
    assert left == Ball(TopK(3), view, 4.0)
    whole = [model.get_parameter(n).detach() * masks(model)[n] for n in names]
    sliced_ones = [small.get_parameter(n).detach() for n in names]
    torch.testing.assert_close(left.value(sliced_ones), Ball(TopK(0.5), view, 4.0).value(whole))


def test_a_coupled_plan_becomes_that_of_the_small_model():
    model, optimizer = started("coupled channels")
    small = small_of(model)
    left = carry_over(optimizer, model, small, cut()).optimizer.param_groups
    fresh = coupled_plan(small)
    assert [group["param_names"] for group in left] == [list(group.names) for group in fresh]
    found = [group["region"].view.view for group in left if group["region"] is not None]
    assert found == [group.target.view.view for group in fresh if isinstance(group.target, Ball)]
    assert {type(member) for view in found for member in view.members} == {Filters, Slices}
    radii = [group["region"].radius for group in optimizer.param_groups if group["region"] is not None]
    assert [group["region"].radius for group in left if group["region"] is not None] == radii


def test_slices_follow_whatever_is_taken_out_of_them():
    view = Slices.of(0, [1, 1, 0, 3, 2, 2, 1, 0], 4)
    whole = Change("w", (8, 5), (5, 5), lost=((0, (2, 7, 4)), (1, ())))
    assert refit(view, [whole]) == Slices.of(0, [0, 0, 2, 1, 0], 3)  # atom 0 is gone, atom 2 keeps a slice
    assert refit(view, [Change("w", (8, 5), (8, 3), lost=((1, (0, 1)),))]) == view
    alone = Change("w", (8, 5), (3, 5), lost=((0, (0, 1, 5, 6, 7)),))
    assert refit(view, [alone]) == Slices.of(0, [0, 2, 1], 3)
    pair = Coupled((view, Filters(Axes(out=1))))
    changes = [Change("w", (8, 5), (5, 5), lost=((0, (0, 1, 6)),)), Change("v", (2, 4), (2, 3), lost=((1, (1,)),))]
    left = refit(pair, changes)
    assert left == Coupled((Slices.of(0, [0, 2, 1, 1, 0], 3), Filters(Axes(out=1))))


def test_channels_that_are_no_slices_of_one_dimension_are_refused_by_name():
    view = Coupled((Slices.of(0, [0, 0, 1, 1, 2, 2, 3, 3], 4), Filters(Axes(out=1, groups=2))))
    with pytest.raises(CarryError, match=r"channels of 'v', .*groups=2.*, are no slices along one dimension"):
        refit(view, [Change("w", (8, 5), (6, 5), lost=((0, (0, 1)),)), Change("v", (4, 2), (4, 2))])


def test_joint_views_of_a_grouped_convolution_follow_member_by_member():
    view = Joint((Filters(), Filters(Axes(groups=4)), Entries()))
    _, _, left = region_after(Ball(Lp(2.0), view, 4.0), "point.weight", "conv3.weight", "conv3.bias")
    assert left.view == Joint((Filters(), Filters(Axes(groups=2)), Entries()))


def test_members_that_lose_unequally_many_channels_are_refused_by_name():
    view = Coupled((Filters(), Filters()))
    with pytest.raises(CarryError, match=r"region of 'stem.weight', 'bn.bias' does not fit .* \[5, 8\]"):
        region_after_cut_of_one(Ball(TopK(2), view, 4.0), "stem.weight", "bn.bias")


def region_after_cut_of_one(region, *names):
    first, second = nn.Module(), nn.Module()
    for module, rows in ((first, 8), (second, 5)):
        module.stem, module.bn = nn.Linear(3, rows), nn.Linear(3, 8)
    found = dict(first.named_parameters())
    optimizer = SFW([{"params": [(name, found[name]) for name in names], "region": region}], lr=0.1)
    group = carrying.ChannelGroup("stem", 8, tuple(carrying.member(f"stem.{t}", 0, 8, 8) for t in ("weight", "bias")))
    carry_over(
        optimizer,
        first,
        second,
        carrying.Cut("FilterPruning", {}, 0.3, {"stem": 8}, {"stem": (0, 1, 2, 3, 4)}, {"stem": group}),
    )


def test_one_region_for_parameters_that_would_need_two_is_refused_by_name():
    with pytest.raises(CarryError, match=r"'stem.weight', 'conv1.weight' share one parameter group"):
        region_after(group_k_support_ball(0.4, 3.0), "stem.weight", "conv1.weight")
    half = region_after(group_k_support_ball(0.5, 3.0), "stem.weight", "conv1.weight")[2]
    assert half == group_k_support_ball(4, 3.0)  # four of five rows, and all three where there were three of six
    assert region_after(group_k_support_ball(0.4, 3.0), "stem.weight", "bn.weight")[2] == group_k_support_ball(3, 3.0)
    for shared in (l2_ball(3.0), group_k_support_ball(7, 3.0)):  # one of the weights has fewer than seven rows
        assert region_after(shared, "stem.weight", "conv1.weight")[2] == shared


def test_what_an_oracle_keeps_to_itself_is_dropped_where_slices_went():
    model, optimizer = started("filters")
    train(model, optimizer, batches(2))
    for p in model.parameters():
        optimizer.state[p]["oracle"] = {"basis": torch.randn(4, 2)}
    small = small_of(model)
    report = move_optimizer(optimizer, model, small, cut())
    assert "conv1.weight: oracle" in report.dropped
    assert "oracle" not in optimizer.state[small.conv1.weight]
    assert "oracle" in optimizer.state[small.fc.bias]
    assert {"momentum_buffer", "steps", "shrinkage", "kept"} <= optimizer.state[small.conv1.weight].keys()
    train(small, optimizer, batches(2))


def test_the_memory_of_a_joint_point_is_dropped_when_any_of_its_tensors_is_cut():
    model = build()
    view = Joint((Entries(), Filters()))
    params = [("fc.bias", model.fc.bias), ("fc.weight", model.fc.weight)]
    optimizer = SFW([{"params": params, "region": Ball(Lp(2.0), view, 9.0)}], lr=0.1)
    train(model, optimizer, batches(1))
    optimizer.state[model.fc.bias]["oracle"] = {"basis": torch.randn(65)}
    momentum = optimizer.state[model.fc.bias]["momentum_buffer"].clone()
    small = small_of(model)
    assert move_optimizer(optimizer, model, small, cut()).dropped == ("fc.bias: oracle",)
    assert torch.equal(optimizer.state[small.fc.bias]["momentum_buffer"], momentum)


def test_carried_state_survives_a_checkpoint():
    model, optimizer = started("filters")
    train(model, optimizer, batches(2))
    small = small_of(model)
    carried = carry_over(optimizer, model, small, cut()).optimizer
    file = io.BytesIO()
    torch.save(carried.state_dict(), file)
    file.seek(0)
    resumed = copy.deepcopy(small)
    other = SFW(Plan.for_filters(resumed, k=0.9), lr=0.7)
    other.load_state_dict(torch.load(file, weights_only=True))
    data = batches(3, seed=8)
    assert same_bits(train(small, carried, data), train(resumed, other, data))
