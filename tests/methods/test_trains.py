"""Training on tensor trains: what is swapped, what comes back, and how many numbers there are."""

import pytest
import torch
from torch import nn

from pliant.methods import Trains
from pliant.sets import EntryBudget, EqualRanks, TensorTrainSet
from pliant.tensor_train import Separate, TrainError, TTConv2d, TTLinear


def network():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = nn.Conv2d(4, 6, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(96, 8, bias=False), nn.Linear(8, 3)
        return nn.Sequential(*layers).double()


SETS = {"0": TensorTrainSet(EntryBudget(0.5)), "3": TensorTrainSet(EqualRanks(2))}


def test_layers_of_trains_hold_as_many_numbers_as_their_sets_say():
    changed = Trains(SETS).apply(network())
    assert (type(changed[0]), type(changed[3]), type(changed[4])) == (TTConv2d, TTLinear, nn.Linear)
    for name, one in SETS.items():
        cores = changed.get_submodule(name).cores
        assert 0 < sum(core.numel() for core in cores) <= one.size(network().get_submodule(name).weight.shape)


def test_a_collapsed_model_is_the_plain_one_and_computes_the_same():
    model = network()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    change = Trains(SETS)
    changed = change.apply(model)
    with torch.no_grad():
        for parameter in changed.parameters():
            parameter.mul_(1.1)
    plain = change.collapse(changed)
    x = torch.randn(5, 4, 4, 4, dtype=torch.float64)
    torch.testing.assert_close(plain(x), changed(x), rtol=1e-10, atol=1e-10)
    assert {name: value.shape for name, value in plain.state_dict().items()} == {n: v.shape for n, v in before.items()}
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_train_starts_with_the_norm_of_its_weight():
    model, change = network(), Trains(SETS)
    plain = change.collapse(change.apply(model))
    for name in SETS:
        one, other = plain.get_submodule(name).weight, model.get_submodule(name).weight
        torch.testing.assert_close(torch.linalg.vector_norm(one), torch.linalg.vector_norm(other))


def test_what_a_train_can_be_is_kept():
    model = network()
    change = Trains({"3": TensorTrainSet(EqualRanks(8), Separate())})
    x = torch.randn(5, 4, 4, 4, dtype=torch.float64)
    torch.testing.assert_close(change.apply(model)(x), model(x), rtol=1e-10, atol=1e-10)


def test_a_weight_of_zeros_stays_one():
    model = network()
    nn.init.zeros_(model[3].weight)
    change = Trains(SETS)
    assert not change.collapse(change.apply(model))[3].weight.any()


def test_only_linear_layers_and_convolutions_can_be_trains():
    model = nn.Sequential(nn.ConvTranspose2d(4, 6, 3))
    with pytest.raises(TrainError, match="ConvTranspose2d"):
        Trains({"0": TensorTrainSet(EqualRanks(1))}).apply(model)
