"""Training on tensor trains: what is swapped, what comes back, and how many numbers there are."""

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from pliant.methods import Trains
from pliant.sets import BondRanks, EntryBudget, EqualRanks, SetError, TensorTrainSet
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


class _Tied(nn.Module):
    """A language model whose head is its embedding."""

    def __init__(self):
        super().__init__()
        self.embedding, self.hidden, self.head = nn.Embedding(9, 6), nn.Linear(6, 6), nn.Linear(6, 9, bias=False)
        self.head.weight = self.embedding.weight


def _used_twice():
    layer = nn.Linear(6, 6)
    return nn.Sequential(layer, nn.ReLU(), layer, nn.Linear(6, 3))


@pytest.mark.parametrize(
    ("model", "name", "other"), [(_used_twice(), "0", "2"), (_used_twice(), "2", "0"), (_Tied(), "head", "embedding")]
)
def test_a_layer_that_shares_its_weight_cannot_be_a_train(model, name, other):
    with pytest.raises(TrainError, match=rf"^{name}: it shares its weights with {other}, .* leave it dense"):
        Trains({name: TensorTrainSet(EqualRanks(2))}).apply(model)


def test_the_layers_beside_shared_ones_can_be_trains():
    change = Trains({"hidden": TensorTrainSet(EqualRanks(2))})
    changed = change.apply(_Tied())
    assert isinstance(changed.hidden, TTLinear)
    assert changed.head.weight is changed.embedding.weight
    assert change.collapse(changed).head.weight.shape == (9, 6)


def test_a_model_that_is_one_layer_becomes_a_train_and_comes_back():
    layer, x = nn.Linear(12, 12).double(), torch.randn(3, 12, dtype=torch.float64)
    change = Trains({"": TensorTrainSet(EqualRanks(2))})
    changed = change.apply(layer)
    plain = change.collapse(changed)
    assert (type(changed), type(plain)) == (TTLinear, nn.Linear)
    torch.testing.assert_close(plain(x), changed(x), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    ("layer", "train", "named"),
    [
        (nn.Linear(6, 6), "7", "^7: there is no layer of this name"),
        (nn.ReLU(), "0", "^0: .* found ReLU"),
        (nn.Conv2d(4, 4, 3, groups=2), "0", "^0: .* found Conv2d"),
        (nn.utils.parametrizations.weight_norm(nn.Linear(6, 6)), "0", "^0: .* plain parameter"),
        (prune.l1_unstructured(nn.Linear(6, 6), "weight", 0.5), "0", "^0: .* plain parameter"),
    ],
    ids=["none", "no weight", "groups", "parametrised", "pruned"],
)
def test_what_cannot_be_a_train_is_named(layer, train, named):
    with pytest.raises(TrainError, match=named):
        Trains({train: TensorTrainSet(EqualRanks(1))}).apply(nn.Sequential(layer))


def test_a_set_that_does_not_fit_names_its_layer():
    with pytest.raises(SetError, match=r"^0: entries"):
        Trains({"0": TensorTrainSet(EntryBudget(1))}).apply(nn.Sequential(nn.Linear(30, 30)))
    with pytest.raises(TrainError, match=r"^0: a train of 2 cores"):
        Trains({"0": TensorTrainSet(BondRanks((1, 2, 3)))}).apply(nn.Sequential(nn.Linear(30, 30)))
