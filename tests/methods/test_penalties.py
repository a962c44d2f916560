"""Penalties on a model: which layers get what, and their subgradients against closed forms."""

import math

import pytest
import torch
from torch import nn
from torch.optim import SGD

from pliant.methods import (
    Around,
    Early,
    GroupLasso,
    InputLasso,
    NuclearNorm,
    Subgradient,
    matrix_targets,
    penalised,
    penalised_groups,
)
from pliant.optim import ProximalSGD
from pliant.regions import Penalty, SparseGroupLasso


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.BatchNorm2d(8),
        nn.Conv2d(8, 8, 3, groups=8),
        nn.Conv2d(8, 6, 3),
        nn.Linear(6, 4),
        nn.Linear(4, 2),
    ).double()


def names(weights):
    return {weight.target.name: [type(penalty) for penalty in weight.penalties] for weight in weights}


def test_terms_choose_their_layers_and_keep_their_order(model):
    both = [Penalty, SparseGroupLasso], [SparseGroupLasso, Penalty]
    for terms, kinds in zip(
        ([NuclearNorm(0.1), GroupLasso(0.2)], [GroupLasso(0.2), NuclearNorm(0.1)]), both, strict=True
    ):
        found = names(penalised(model, terms))
        assert found == {"0": kinds, "2": kinds, "3": kinds, "4": [Penalty]}
    assert list(names(penalised(model, [InputLasso(0.1)]))) == ["0", "3"]
    assert list(names(penalised(model, [NuclearNorm(0.1)], first=False, ignore=["3"]))) == ["2", "4"]
    with pytest.raises(ValueError, match="terms must hold at least one penalty"):
        penalised(model, [])


def test_filters_weigh_by_the_root_of_their_size_and_early_layers_less(model):
    weights = penalised(model, [GroupLasso(0.5)], early=Early(layers=2, factor=0.1))
    for weight, factor, size in zip(weights, (0.1, 0.1, 1.0), (27, 9, 72), strict=True):
        norms = weight.parameter.flatten(1).norm(dim=1).sum()
        (penalty,) = weight.penalties
        torch.testing.assert_close(penalty.value(weight.parameter), factor * 0.5 * math.sqrt(size) * norms)


def test_input_channels_are_the_second_axis(model):
    weight = penalised(model, [InputLasso(0.5)])[1]
    norms = weight.parameter.transpose(0, 1).flatten(1).norm(dim=1).sum()
    torch.testing.assert_close(weight.penalties[0].value(weight.parameter), 0.5 * math.sqrt(54) * norms)


def test_the_subgradient_is_added_in_closed_form(model):
    tau, lam = 0.3, 0.2
    optimizer = Around(
        SGD(model.parameters(), lr=1.0), [Subgradient(penalised(model, [NuclearNorm(tau), GroupLasso(lam)]))]
    )
    old = {target.name: target.parameter.detach().clone() for target in matrix_targets(model)}
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for target in matrix_targets(model):
        matrices = target.matrices(like=old[target.name])
        left, _, right = torch.linalg.svd(matrices, full_matrices=False)
        slope = tau * target.shaped(left @ right)
        if old[target.name].ndim == 4:
            rows = old[target.name].flatten(1)
            root = math.sqrt(rows.shape[1])
            slope = slope + lam * root * (rows / rows.norm(dim=1, keepdim=True)).reshape(slope.shape)
        torch.testing.assert_close(old[target.name] - target.parameter.detach(), slope)


def test_a_zero_weight_has_a_finite_subgradient_and_no_gradient_none(model):
    weights = penalised(model, [NuclearNorm(0.3), GroupLasso(0.2)])
    with torch.no_grad():
        weights[0].parameter.zero_()
    weights[0].parameter.grad = torch.zeros_like(weights[0].parameter)
    before = weights[1].parameter.detach().clone()
    Around(SGD(model.parameters(), lr=1.0), [Subgradient(weights)]).step()
    assert weights[0].parameter.isfinite().all()
    assert torch.equal(weights[1].parameter, before)


def test_the_value_of_the_regulariser_is_the_same_on_both_ways(model):
    weights = penalised(model, [NuclearNorm(0.3), GroupLasso(0.2, alpha=0.4)])
    proximal = ProximalSGD(penalised_groups(model, weights), lr=0.1)
    torch.testing.assert_close(proximal.penalty().detach(), Subgradient(weights).penalty())
    assert float(Subgradient(weights).penalty()) > 0


def test_groups_hold_every_parameter_once_with_its_name(model):
    groups = penalised_groups(model, penalised(model, [GroupLasso(0.2)]))
    named = [pair for group in groups for pair in group["params"]]
    assert sorted(name for name, _ in named) == sorted(name for name, _ in model.named_parameters())
    assert {id(p) for _, p in named} == {id(p) for p in model.parameters()}
    assert [len(group["params"]) for group in groups] == [1, 1, 1, 9]


def test_a_weight_that_two_layers_share_is_penalised_once_on_both_ways():
    shared = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 2))
    shared[2].weight = shared[0].weight
    weights = penalised(shared, [GroupLasso(0.1), NuclearNorm(0.1)])
    assert [weight.target.name for weight in weights] == ["0"]
    proximal = ProximalSGD(penalised_groups(shared, weights), lr=0.1).penalty()
    torch.testing.assert_close(Subgradient(weights).penalty(), proximal)
