"""What cannot be is refused, by name and before anything has changed."""

import pytest
import torch
from chains import NETS
from torch import nn
from torch.nn.utils import prune

from pliant.bcd import BCDError, BlockCoordinateDescent, ChainError, Course, Geometric, Polish, SingularSystemError
from pliant.bcd.activations import Rectifier
from pliant.models import create
from pliant.sets import BondRanks, EnergyShare, EntryBudget, EqualRanks, RankSet, SetError, SparseSet, TensorTrainSet


class Branch(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.kind = kind
        self.one = nn.Linear(4, 4)
        self.two = nn.Linear(4, 4)
        self.relu = nn.ReLU()

    def forward(self, x):
        one = self.one(x)
        hidden = self.relu(one)
        return {
            "two layers": lambda: self.two(hidden) + self.two(hidden),
            "shared": lambda: self.one(hidden),
            "twice": lambda: self.two(one) + self.relu(one),
            "no activation": lambda: self.two(hidden) + hidden,
            "shape": lambda: hidden * 2,
            "data": lambda: self.two(hidden) if x.sum() > 0 else hidden,
            "branches": lambda: self.two(x) + hidden,
            "nothing": lambda: None,
        }[self.kind]()


class TwoInputs(nn.Module):
    def forward(self, x, y):
        return x + y


def chain(*layers):
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(4, 2))


@pytest.mark.parametrize(
    ("model", "named"),
    [
        (chain(nn.Conv2d(2, 2, 1, groups=2), nn.ReLU()), "0: groups"),
        (chain(nn.Conv2d(2, 2, 2, padding=1, padding_mode="circular"), nn.ReLU()), "0: padding_mode"),
        (chain(nn.Conv2d(2, 2, 2, padding="same"), nn.ReLU()), "0: padding='same'"),
        (chain(nn.Conv2d(2, 2, 1), nn.AvgPool2d(2), nn.ReLU()), "1: flattening and pooling"),
        (chain(nn.Conv2d(2, 2, 1), nn.ReLU(), nn.MaxPool2d(2)), "2: MaxPool2d"),
        (chain(nn.Linear(4, 4), nn.BatchNorm1d(4)), "1: BatchNorm1d"),
        (chain(nn.Linear(4, 4), nn.Dropout(0.5)), "1: Dropout"),
        (chain(nn.Linear(4, 4), nn.ReLU(), nn.ReLU()), "2: an activation"),
        (chain(nn.Linear(4, 4), nn.LeakyReLU(1.5)), "1: negative_slope"),
        (nn.Sequential(nn.Flatten(0), nn.Linear(4, 2)), "0: Flatten"),
        (nn.Sequential(nn.Conv2d(1, 1, 1)), "0: the last layer"),
        (nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Flatten()), "must end"),
        (nn.Sequential(nn.Flatten()), "must end"),
        (TwoInputs(), "one tensor"),
        *((Branch(kind), name) for kind, name in (
            ("two layers", "add: a sum"), ("shared", "one: a layer can be used"), ("twice", "used twice|add: a sum"),
            ("no activation", "add: the branch"), ("shape", "mul"), ("data", "Branch cannot be traced"),
            ("branches", "two: a layer must read"), ("nothing", "must end"),
        )),
        (create("lenet-5", num_classes=3, in_channels=1, image_size=8), "pool1: MaxPool2d"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_a_model_that_is_no_chain_is_refused_by_name(model, named):
    with pytest.raises(ChainError, match=named):
        BlockCoordinateDescent(model, {})


def test_the_perceptron_of_the_zoo_is_a_chain():
    model = create("lenet-300-100", num_classes=3, in_channels=1, image_size=4, widths=(9, 8))
    bcd = BlockCoordinateDescent(model, {"fc1": SparseSet(0.5)})
    bcd.sweep(torch.randn(5, 1, 4, 4), torch.tensor([0, 1, 2, 0, 1]))
    assert set(bcd.copies()) == {"fc1"}


@pytest.mark.parametrize("name", ["rho", "gamma", "tau", "alpha"])
@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_penalties_must_be_positive_and_finite(name, value):
    with pytest.raises(BCDError, match=name):
        BlockCoordinateDescent(NETS["perceptron"].model(), {}, **{name: value})


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: BlockCoordinateDescent(NETS["perceptron"].model(), {}, chunk=0), "chunk"),
        (lambda: BlockCoordinateDescent(NETS["perceptron"].model(), {}, conjugate_steps=0), "conjugate_steps"),
        (lambda: BlockCoordinateDescent(NETS["perceptron"].model(), {"2": RankSet(1), "7": RankSet(1)}), "found 2, 7"),
        (lambda: Course(synchronise_every=-1), "synchronise_every"),
        (lambda: Course(tolerance=0.1, measure_every=0), "measure_every"),
        (lambda: Geometric(rho=0.0), "rho"),
        (lambda: Geometric(every=0), "every"),
        (lambda: Polish(lr=0.0), "lr"),
        (lambda: Polish(epochs=0), "epochs"),
        (lambda: Rectifier(1.0), "slope"),
    ],
)
def test_options_out_of_range_are_refused_by_name(make, named):
    with pytest.raises(BCDError, match=named):
        make()


def test_samples_that_do_not_fit_are_refused():
    net = NETS["perceptron"]
    x, y = net.data()
    bcd = BlockCoordinateDescent(net.model(), {})
    with pytest.raises(BCDError, match="no samples yet"):
        bcd.objective()
    for bad_x, bad_y, named in (
        (x.float(), y, "float64"),
        (x[:3], y, "as many"),
        (x[:0], y[:0], "at least one"),
        (x * torch.inf, y, "finite"),
        (x, y + 2, "labels"),
    ):
        with pytest.raises(BCDError, match=named):
            bcd.start(bad_x, bad_y)
    half = BlockCoordinateDescent(net.model(torch.bfloat16), {})
    with pytest.raises(BCDError, match="float32 or float64"):
        half.start(x.bfloat16(), y)
    bcd.sweep(x, y)
    with pytest.raises(BCDError, match="same samples"):
        bcd.sweep(x.clone(), y)


def test_a_state_of_something_else_is_refused():
    net = NETS["perceptron"]
    x, y = net.data()
    bcd = BlockCoordinateDescent(net.model(), {"1": RankSet(1)})
    bcd.sweep(x, y)
    state = bcd.state_dict()
    with pytest.raises(BCDError, match="other shapes"):
        bcd.load_state_dict(state, x[:4], y[:4])
    other = BlockCoordinateDescent(net.model(), {"0.0": RankSet(1)})
    with pytest.raises(BCDError, match=r"0\.0, found 1"):
        other.load_state_dict(state, x, y)


def test_a_set_that_does_not_fit_names_the_layer():
    with pytest.raises(SetError, match=r"0\.0: "):
        BlockCoordinateDescent(NETS["perceptron"].model(), {"0.0": TensorTrainSet(EntryBudget(1))})


def test_a_compressed_last_layer_has_no_refit():
    net = NETS["perceptron"]
    x, y = net.data()
    bcd = BlockCoordinateDescent(net.model(), {"3": RankSet(1)})
    bcd.start(x, y)
    with pytest.raises(BCDError, match="3: the last layer is compressed"):
        bcd.refit(x, y)


def test_weights_that_are_not_finite_are_named():
    net = NETS["perceptron"]
    model = net.model()
    bcd = BlockCoordinateDescent(model, {})
    x, y = net.data()
    bcd.start(x, y)
    with torch.no_grad():
        model[3].weight.fill_(torch.nan)
    with pytest.raises(SingularSystemError, match="3: "):
        bcd.sweep(x, y)


def _sets_state(one, dtype=torch.float64):
    net = NETS["perceptron"]
    x, y = net.data(dtype=dtype)
    bcd = BlockCoordinateDescent(net.model(dtype), {"0.0": one})
    bcd.sweep(x, y)
    return bcd.state_dict()


@pytest.mark.parametrize("told", [True, False], ids=["now", "before sets were in it"])
@pytest.mark.parametrize(
    ("one", "other"),
    [
        (TensorTrainSet(EqualRanks(6)), TensorTrainSet(EqualRanks(2))),
        (TensorTrainSet(BondRanks((6,))), TensorTrainSet(EntryBudget(0.6))),
        (SparseSet(0.5), TensorTrainSet(EqualRanks(2))),
        (TensorTrainSet(EqualRanks(2)), SparseSet(0.5)),
        (SparseSet(0.5), RankSet(1)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_state_of_another_set_is_refused_by_the_layers_name(one, other, told):
    net = NETS["perceptron"]
    state = _sets_state(one)
    if not told:
        del state["sets"]
    bcd = BlockCoordinateDescent(net.model(), {"0.0": other})
    with pytest.raises(BCDError, match=r"^0\.0: the copy"):
        bcd.load_state_dict(state, *net.data())


@pytest.mark.parametrize(
    "one", [SparseSet(0.5), RankSet(2), TensorTrainSet(EqualRanks(2)), TensorTrainSet(EnergyShare(0.8))]
)
def test_a_state_from_before_sets_were_in_it_still_loads(one):
    net = NETS["perceptron"]
    state = _sets_state(one)
    del state["sets"]
    bcd = BlockCoordinateDescent(net.model(), {"0.0": one})
    bcd.load_state_dict(state, *net.data())
    assert all(map(torch.equal, bcd.copies()["0.0"].factors, state["points"]["0.0"][1:]))


def test_a_state_of_another_dtype_is_refused():
    net = NETS["perceptron"]
    bcd = BlockCoordinateDescent(net.model(), {"0.0": RankSet(1)})
    with pytest.raises(BCDError, match=r"float64 as the model does, found torch\.float32"):
        bcd.load_state_dict(_sets_state(RankSet(1), torch.float32), *net.data())


@pytest.mark.parametrize("local", ["weight", "bias"])
def test_layers_that_share_a_parameter_are_refused_by_both_names(local):
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    setattr(model[2], local, getattr(model[0], local))
    with pytest.raises(ChainError, match=f"2: shares its {local} with 0"):
        BlockCoordinateDescent(model, {})


def test_a_pruned_layer_is_refused_as_a_parametrised_one_is():
    pruned = prune.l1_unstructured(nn.Linear(4, 4), "weight", 0.5)
    with pytest.raises(ChainError, match="0: its weight is no parameter"):
        BlockCoordinateDescent(nn.Sequential(pruned, nn.ReLU(), nn.Linear(4, 2)), {})


def test_other_labels_and_changed_samples_are_refused():
    net = NETS["perceptron"]
    x, y = net.data()
    bcd = BlockCoordinateDescent(net.model(), {})
    bcd.sweep(x, y)
    bcd.sweep(x, y.clone())
    with pytest.raises(BCDError, match="same labels"):
        bcd.sweep(x, (y + 1) % 3)
    y.add_(1).remainder_(3)
    with pytest.raises(BCDError, match="same labels"):
        bcd.sweep(x, y)
    y.sub_(1).remainder_(3)
    x.mul_(2.0)
    with pytest.raises(BCDError, match="same samples"):
        bcd.sweep(x, y)


def test_targets_must_be_finite():
    net = NETS["perceptron"]
    x, _ = net.data()
    with pytest.raises(BCDError, match="targets must be finite"):
        BlockCoordinateDescent(net.model(), {}).start(x, torch.full((9, 3), torch.nan).double())


@pytest.mark.parametrize(
    ("net", "shape", "named"),
    [
        ("perceptron", (9, 7), r"0\.0: .* \(7,\).* \(7, 6\)"),
        ("perceptron", (9, 4, 6), r"0\.0: .* needs 1 dimensions a sample, found 2"),
        ("images", (9, 8, 9), r"0: .* \(8, 9\)"),
        ("images", (9, 2, 12, 9), r"7: .* \(2, "),
    ],
)
def test_samples_of_another_shape_name_the_layer_that_cannot_read_them(net, shape, named):
    bcd = BlockCoordinateDescent(NETS[net].model(), {})
    with pytest.raises(BCDError, match=named):
        bcd.start(torch.randn(shape).double(), torch.zeros(9, dtype=torch.int64))


def test_what_a_run_is_judged_by_is_checked_before_its_first_sweep():
    net = NETS["perceptron"]
    x, y = net.data()
    bcd = BlockCoordinateDescent(net.model(), {})
    for wrong, named in ((y[:, None], "whole numbers"), (y + 3, "labels must lie"), (y[:4], "as many")):
        with pytest.raises(BCDError, match=named):
            bcd.fit(x, y, sweeps=1, evaluate=(x, wrong))
    assert bcd.done == 0
    with pytest.raises(BCDError, match="whole numbers"):
        bcd.accuracy(x, y.double())


def test_a_set_of_a_frozen_weight_and_a_chain_that_is_frozen_are_refused():
    model = NETS["perceptron"].model()
    model[1].requires_grad_(requires_grad=False)
    with pytest.raises(BCDError, match="1: its weight is frozen"):
        BlockCoordinateDescent(model, {"1": RankSet(1)})
    with pytest.raises(BCDError, match="every layer"):
        BlockCoordinateDescent(model.requires_grad_(requires_grad=False), {})
    model[0].requires_grad_()
    x, y = NETS["perceptron"].data()
    with pytest.raises(BCDError, match="3: the last layer is frozen"):
        BlockCoordinateDescent(model, {}).refit(x, y)
