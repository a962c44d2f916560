"""Penalties follow a model through its cut: what they say of a sliced weight is what they said of the truncated one."""

from __future__ import annotations

import math
from dataclasses import dataclass

import carrying
import pytest
import torch
from carrying import assert_one_way, batches, build, cut, masks, small_of, train
from torch import nn

import pliant
from pliant.compress.carry import CarryError, carry_over, move_optimizer
from pliant.methods import GroupLasso, InputLasso, NuclearNorm, penalised, penalised_groups
from pliant.optim import DualAveraging, ProximalSGD
from pliant.regions import (
    Axes,
    Coupled,
    Entries,
    Filters,
    Joint,
    Lp,
    Penalty,
    Scaled,
    Singular,
    SparseGroupLasso,
    TopK,
)
from pliant.spec import register

GAUGES = [TopK(1), TopK(3), TopK(0.4), TopK(0.4, math.inf), Lp(1.0), Lp(1.5), Lp(2.0)]
TERMS = [GroupLasso(1e-3), GroupLasso(1e-3, alpha=0.3), InputLasso(1e-3), NuclearNorm(1e-2)]


TOGETHER = {
    "coupled": (
        Scaled(Coupled((Filters(), Filters(), Filters())), (0.5, 1.0, 2.0)),
        ("conv1.weight", "bn1.weight", "bn1.bias"),
    ),
    "joint": (
        Joint((Filters(), Filters(Axes(groups=4)), Entries())),
        ("point.weight", "conv3.weight", "conv3.bias"),
    ),
}


class Convolutions(nn.Module):
    """A convolution, one in groups or transposed that loses groups with its channels, and one that reads it."""

    def __init__(self, middle):
        super().__init__()
        self.first, self.middle = nn.Conv2d(3, 8, 3, padding=1), middle
        self.last, self.out = nn.Conv2d(middle.out_channels, 8, 1), nn.Linear(8, 4)

    def forward(self, x):
        x = self.middle(self.first(x).relu()).relu()
        return self.out(self.last(x).relu().mean((2, 3)))


MIDDLES = {
    "plain": lambda: nn.Conv2d(8, 8, 3),
    "four groups": lambda: nn.Conv2d(8, 12, 3, groups=4),
    "depthwise": lambda: nn.Conv2d(8, 8, 3, groups=8),
    "multiplier 2": lambda: nn.Conv2d(8, 16, 3, groups=8),
    "multiplier 4": lambda: nn.Conv2d(8, 32, 3, groups=8),
    "transposed": lambda: nn.ConvTranspose2d(8, 12, 3),
    "transposed, depthwise": lambda: nn.ConvTranspose2d(8, 16, 3, groups=8),
}


@pytest.mark.parametrize("term", TERMS, ids=repr)
@pytest.mark.parametrize("middle", MIDDLES)
def test_terms_on_the_small_model_are_those_that_are_built_for_it(middle, term):
    torch.manual_seed(0)
    model = Convolutions(MIDDLES[middle]())
    optimizer = ProximalSGD(penalised_groups(model, penalised(model, [term])), lr=0.05)
    x, y = torch.randn(8, 3, 6, 6), torch.randint(4, (8,))
    train(model, optimizer, [(x, y)])
    small = pliant.compress(model, pliant.FilterPruning(), 0.5, example=x)
    move_optimizer(optimizer, model, small.model, small.cut)
    built = {id(weight.parameter): weight.penalties for weight in penalised(small.model, [term])}
    moved = {id(p): group["penalties"] for group in optimizer.param_groups for p in group["params"]}
    for p in small.model.parameters():
        weight = p.detach()
        values = [penalty.value(weight) for penalty in moved[id(p)]]
        assert values == [penalty.value(weight) for penalty in built.get(id(p), ())]
    train(small.model, optimizer, [(x, y)])


@pytest.mark.parametrize("middle", ["four groups", "depthwise", "multiplier 2", "multiplier 4"])
def test_the_nuclear_norm_is_that_of_the_blocks_that_are_left(middle):
    torch.manual_seed(0)
    model, x = Convolutions(MIDDLES[middle]()), torch.randn(2, 3, 6, 6)
    nuclear = Penalty(TopK(1), Singular(Axes(groups=model.middle.groups)), 1.0)
    optimizer = ProximalSGD([{"params": [model.middle.weight], "penalties": [nuclear]}], lr=0.05)
    small = pliant.compress(model, pliant.FilterPruning(), 0.5, example=x)
    move_optimizer(optimizer, model, small.model, small.cut)
    layer = small.model.middle
    blocks = layer.weight.detach().reshape(layer.groups, layer.out_channels // layer.groups, -1)
    expected = sum(torch.linalg.svdvals(block).sum() for block in blocks)
    torch.testing.assert_close(optimizer.penalty().detach(), expected)


def after(penalty, *names):
    """Carry one group with a penalty, and return the models and the penalty that it has then."""
    model = build(torch.float64)
    named = dict(model.named_parameters())
    optimizer = ProximalSGD([{"params": [(name, named[name]) for name in names], "penalties": [penalty]}], lr=0.1)
    small = small_of(model)
    (left,) = carry_over(optimizer, model, small, cut()).optimizer.param_groups[0]["penalties"]
    return model, small, left


@pytest.mark.parametrize("gauge", GAUGES, ids=repr)
@pytest.mark.parametrize("name", ["stem.weight", "conv1.weight", "conv3.weight", "fc.weight", "bn.weight"])
@pytest.mark.parametrize("kind", [Entries, Filters, Singular])
def test_the_value_at_the_sliced_weight_is_that_at_the_truncated_one(gauge, name, kind):
    axes = () if kind is Entries else (Axes(groups=4),) if name == "conv3.weight" else (Axes(),)
    penalty = Penalty(gauge, kind(*axes), 0.3)
    model, small, left = after(penalty, name)
    truncated = penalty.value(model.get_parameter(name).detach() * masks(model)[name])
    torch.testing.assert_close(left.value(small.get_parameter(name).detach()), truncated, rtol=1e-12, atol=0)


@pytest.mark.parametrize("gauge", GAUGES, ids=repr)
@pytest.mark.parametrize("together", TOGETHER)
def test_tensors_that_are_one_point_are_cut_together(gauge, together):
    view, names = TOGETHER[together]
    penalty = Penalty(gauge, view, 0.3)
    model, small, left = after(penalty, *names)
    truncated = penalty.value([model.get_parameter(name).detach() * masks(model)[name] for name in names])
    sliced = left.value([small.get_parameter(name).detach() for name in names])
    torch.testing.assert_close(sliced, truncated, rtol=1e-12, atol=0)


def test_a_spatial_reading_loses_the_groups_of_its_convolution():
    penalty = Penalty(TopK(1), Singular(Axes(groups=4, spatial=True)), 1.0)
    assert after(penalty, "conv3.weight")[2].view == Singular(Axes(groups=2, spatial=True))


PENALTIES = {
    "conv1.weight": [Penalty(TopK(0.4), Filters(), 0.02)],
    "conv2.weight": [SparseGroupLasso(0.02, 1.0), Penalty(TopK(2), Singular(), 0.02)],
    "conv3.weight": [
        SparseGroupLasso(0.02, 0.5, Filters(Axes(groups=4))),
        Penalty(TopK(1), Singular(Axes(groups=4)), 0.02),
    ],
    "fc.weight": [Penalty(TopK(0.1), Entries(), 0.02)],
}
KINDS = {
    "proximal": lambda groups: ProximalSGD(groups, lr=0.05),
    "dual averaging": lambda groups: DualAveraging(groups, lr=0.05, restart_every=4),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_small_model_goes_the_way_of_the_truncated_one(kind):
    """The removed atoms are held at zero, with all that the optimizer knows of them."""
    model = build(torch.float64)
    groups = [{"params": [pair], "penalties": PENALTIES.get(pair[0], [])} for pair in model.named_parameters()]
    optimizer = KINDS[kind](groups)
    train(model, optimizer, batches(3, torch.float64))
    small = small_of(model)
    carried = carry_over(optimizer, model, small, cut()).optimizer
    assert_one_way(model, optimizer, small, carried, rtol=1e-9)


def test_one_penalty_for_weights_that_would_need_two_is_refused_by_name():
    with pytest.raises(CarryError, match=r"'stem.weight', 'conv1.weight' share one parameter group whose penalty"):
        after(Penalty(TopK(0.4), Filters(), 0.1), "stem.weight", "conv1.weight")
    lasso = SparseGroupLasso(0.1)
    assert after(lasso, "stem.weight", "conv1.weight")[2] == lasso


def test_members_that_lose_unequally_many_channels_are_refused_by_name():
    view = Coupled((Filters(Axes(out=1)), Filters()))
    with pytest.raises(CarryError, match=r"the penalty of 'conv1.weight', 'bn.bias' does not fit .* \[3, 5\]"):
        after_rows(Penalty(TopK(2), view, 0.1))


def after_rows(penalty):
    """Carry a penalty on two tensors of which the cut takes eight channels to three and five."""
    first, second = nn.Module(), nn.Module()
    for module, columns, rows in ((first, 8, 8), (second, 3, 5)):
        module.conv1, module.bn = nn.Linear(columns, 4), nn.Linear(2, rows)
    named = [("conv1.weight", first.conv1.weight), ("bn.bias", first.bn.bias)]
    groups = {
        "conv1": carrying.ChannelGroup("conv1", 8, (carrying.member("conv1.weight", 1, 8, 8),)),
        "bn": carrying.ChannelGroup("bn", 8, tuple(carrying.member(f"bn.{t}", 0, 8, 8) for t in ("weight", "bias"))),
    }
    kept = {"conv1": (0, 1, 2), "bn": (0, 1, 2, 3, 4)}
    uneven = carrying.Cut("FilterPruning", {}, 0.3, {"conv1": 8, "bn": 8}, kept, groups)
    carry_over(ProximalSGD([{"params": named, "penalties": [penalty]}], lr=0.1), first, second, uneven)


@register
@dataclass(frozen=True)
class Stranger:
    """A regulariser of somebody's own."""

    view: Filters

    def value(self, x):
        return self.view.magnitudes(x).sum()

    def prox(self, x, step):
        return x / (1 + step)


def test_a_penalty_of_an_unknown_kind_follows_where_it_need_not_change():
    assert after(Stranger(Filters()), "stem.weight")[2] == Stranger(Filters())
    with pytest.raises(CarryError, match=r"the penalty Stranger\(.*groups=4.* must read 'conv3.weight' otherwise"):
        after(Stranger(Filters(Axes(groups=4))), "conv3.weight")


def test_factors_do_not_inherit_the_penalty_of_their_weight():
    model, x = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 3)), torch.randn(2, 8)
    optimizer = ProximalSGD(penalised_groups(model, penalised(model, [NuclearNorm(0.1)])), lr=0.1)
    small = pliant.compress(model, pliant.LowRank(), 0.8, example=x)
    with pytest.raises(CarryError, match=r"'0.weight' has penalties, and the cut puts '0.0.weight', '0.1.weight' in"):
        move_optimizer(optimizer, model, small.model, small.cut)
    optimizer.param_groups[0]["penalties"] = ()
    move_optimizer(optimizer, model, small.model, small.cut)
    assert {id(p) for g in optimizer.param_groups for p in g["params"]} == {id(p) for p in small.model.parameters()}
