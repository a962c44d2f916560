from __future__ import annotations

import copy
import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from compressible import build
from sklearn.datasets import load_digits
from torch import nn

from pliant.compress import (
    L1,
    Both,
    CutError,
    FilterPruning,
    Given,
    Global,
    Macs,
    PerLayer,
    backward_elimination,
    compress,
    elimination,
    output_difference,
    reconstruct,
    sweep,
)
from pliant.compress.cut import Cut
from pliant.methods.operators import operator_of
from pliant.models import create

RIDGE = 1e-3


def _data(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + 0.5


def _mlp(*widths, bias=True):
    torch.manual_seed(0)
    layers = []
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after, bias=bias), nn.ReLU()]
    return nn.Sequential(*layers[:-1]).double()


def _scores(pruning, name):
    return dict(pruning.score.values)[name]


def _measured(model, x, pruning=None, ridge=RIDGE):
    return backward_elimination(pruning or FilterPruning(), model, [x[:64], x[64:]], ridge=ridge, rows=10_000)


def _rows_read(model, name, x, kernel=None):
    found = []
    handle = model.get_submodule(name).register_forward_pre_hook(lambda _, inputs: found.append(inputs[0]))
    with torch.no_grad():
        model.eval()(x)
    handle.remove()
    if kernel:
        return F.unfold(found[0], kernel).transpose(1, 2).flatten(0, 1)
    return found[0]


def _left_error(weight, x, columns, *, centred, ridge=RIDGE):
    """The damped error of the best fit on some columns, by `lstsq`, relative to that on none."""
    x = x - x.mean(0) if centred else x
    eye = torch.diag(ridge * x.square().mean(0)).sqrt()
    y = torch.cat([x @ weight.T / math.sqrt(len(x)), eye @ weight.T])
    rows = torch.cat([x / math.sqrt(len(x)), eye])

    def error(kept):
        solution = torch.linalg.lstsq(rows[:, kept], y).solution if kept else torch.zeros(0, len(weight)).double()
        return float((rows[:, kept] @ solution - y).square().sum())

    return error(columns) / error([])


def _by_brute_force(readers, atoms):
    """Greedy, every fit made anew: (weight, rows, columns of every atom, whether centred, share) for every reader."""
    left, order, squares, before = list(range(atoms)), [], {}, 0.0

    def loss(kept):
        total = 0.0
        for weight, x, columns, centred, share in readers:
            error = _left_error(weight, x, [c for atom in kept for c in columns[atom]], centred=centred)
            total -= share * math.log(max(1.0 - error, 1e-12))
        return total

    while len(left) > 1:
        losses = {atom: loss([one for one in left if one != atom]) for atom in left}
        atom = min(losses, key=losses.__getitem__)
        squares[atom] = losses[atom] - before
        before = losses[atom]
        left.remove(atom)
        order.append(atom)
    return [*order, *left], squares


def _agree(scores, order, squares):
    assert sorted(range(len(scores)), key=scores.__getitem__) == order
    for earlier, later in pairwise(order):
        if later in squares:
            expected = max(squares[later], scores[earlier] ** 2)
            assert scores[later] ** 2 == pytest.approx(expected, rel=1e-5, abs=1e-9)


LATE = pytest.mark.parametrize("late", [1, 4, 8, elimination._LATE])  # columns after which the whole matrices follow


@LATE
@pytest.mark.parametrize("bias", [True, False])
def test_linear_layers_agree_with_every_fit_made_anew(bias, late, monkeypatch):
    monkeypatch.setattr(elimination, "_LATE", late)
    model, x = _mlp(8, 7, 5, bias=bias), _data(1, 200, 8)
    scores = _scores(_measured(model, x), "0")
    columns = [[atom] for atom in range(7)]
    weight = model[2].weight.detach()
    order, squares = _by_brute_force([(weight, _rows_read(model, "2", x), columns, bias, 1.0)], 7)
    _agree(scores, order, squares)


@LATE
def test_convolutions_lose_a_block_of_columns_for_every_channel(late, monkeypatch):
    monkeypatch.setattr(elimination, "_LATE", late)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 5, 3), nn.BatchNorm2d(5), nn.ReLU(), nn.Conv2d(5, 4, 2, bias=False))
    model = model.append(nn.BatchNorm2d(4)).append(nn.Flatten()).append(nn.Linear(4 * 9, 3)).double()
    x = _data(2, 80, 2, 6, 6)
    pruning = _measured(model, x)
    weight = model[3].weight.detach().flatten(1)
    columns = [[4 * atom + k for k in range(4)] for atom in range(5)]
    order, squares = _by_brute_force([(weight, _rows_read(model, "3", x, 2), columns, True, 1.0)], 5)
    _agree(_scores(pruning, "0"), order, squares)
    columns = [[9 * atom + k for k in range(9)] for atom in range(4)]  # behind the flattening
    readers = [(model[6].weight.detach(), _rows_read(model, "6", x), columns, True, 1.0)]
    _agree(_scores(pruning, "3"), *_by_brute_force(readers, 4))


class _Summed(nn.Module):
    """Two layers read the stream, one of which is added to it."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Linear(6, 5)
        self.inner = nn.Linear(5, 7)
        self.outer = nn.Linear(7, 5)
        self.head = nn.Linear(5, 3)

    def forward(self, x):
        x = self.stem(x).relu()
        return self.head(x + self.outer(self.inner(x).relu()))


def test_a_layer_in_a_sum_of_two_counts_half():
    model, x = _Summed().double(), _data(3, 150, 6)
    pruning = _measured(model, x)
    columns = [[atom] for atom in range(7)]
    readers = [(model.outer.weight.detach(), _rows_read(model, "outer", x), columns, True, 0.5)]
    _agree(_scores(pruning, "inner"), *_by_brute_force(readers, 7))
    readers = [
        (getattr(model, name).weight.detach(), _rows_read(model, name, x), columns[:5], True, 1.0)
        for name in ("inner", "head")
    ]
    _agree(_scores(pruning, "stem"), *_by_brute_force(readers, 5))


def test_a_channel_that_others_make_up_for_leaves_first():
    """A copy of another channel is worth nothing, however large; reconstruction proves it."""
    model, x = _mlp(6, 8, 4), _data(4, 300, 6)
    with torch.no_grad():
        model[0].weight[3], model[0].bias[3] = 5.0 * model[0].weight[2], 5.0 * model[0].bias[2]
    assert model[0].weight.norm(dim=1).argmax() == 3
    pruning = _measured(model, x, ridge=1e-9)
    assert min(range(8), key=_scores(pruning, "0").__getitem__) in {2, 3}
    cut = pruning.select(model, 1 / 8, example=x)
    found = reconstruct(pruning.truncate(model, cut), model, cut, [x], ridge=1e-9, rows=10_000)
    torch.testing.assert_close(found(x), model(x), rtol=1e-5, atol=1e-5)


def test_budgets_take_from_the_group_that_loses_least():
    """The channels of the second layer are all but copies of one."""
    torch.manual_seed(0)
    model, x = _mlp(6, 12, 12, 4), _data(5, 300, 6)
    with torch.no_grad():
        model[2].weight.copy_(model[2].weight[:1] * torch.linspace(0.9, 1.1, 12)[:, None])
        model[2].bias.copy_(model[2].bias[:1] * torch.linspace(0.9, 1.1, 12))
    measured = _measured(model, x, ridge=1e-9)
    for plain in (FilterPruning(), FilterPruning(scope=Global())):
        pruning = replace(plain, score=measured.score)
        kept = [one.select(model, budget=Macs(0.5), example=x).count("0") for one in (pruning, plain)]
        assert kept[0] > kept[1]
    kept = [one.select(model, 11 / 24, example=x).count("2") for one in (pruning, plain)]
    assert kept[0] == 1 < kept[1]


@pytest.mark.parametrize(
    "name", ["plain", "residual", "concat", "attention", "special", "conv1d", "conv3d", "transposed", "auxiliary"]
)
def test_cuts_are_as_exact_as_others_and_travel(name):
    model, example = build(name)
    model = model.double()
    example = example.double() if example.is_floating_point() else example
    before = copy.deepcopy(model.state_dict())
    modes = [module.training for module in model.modules()]
    pruning = backward_elimination(FilterPruning(), model, [example, example[:1]])
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())
    assert modes == [module.training for module in model.modules()]
    plain = FilterPruning().select(model, 0.0, example=example)
    assert [group for group, _ in pruning.score.values] == list(plain.atoms)
    cut = pruning.select(model, 0.5, example=example)
    assert Cut.from_json(cut.to_json()) == cut
    truncated = pruning.truncate(model, cut)
    found = reconstruct(truncated, model, cut, [example])
    difference, largest = output_difference(found, pruning.realise(found, cut), example)
    assert difference <= 1e-9 * max(largest, 1.0)


def test_it_pays_on_a_trained_network(digits_model):
    """At the same MACs, without gradients, against the default scores."""
    model, images, labels = digits_model
    batches = list(images[:512].split(128))

    def accuracy(pruning):
        done = compress(model, pruning, budget=Macs(0.25), example=images[:1], reconstruct=batches)
        with torch.no_grad():
            return float((done.model(images[1000:]).argmax(1) == labels[1000:]).float().mean())

    assert accuracy(backward_elimination(FilterPruning(), model, batches)) > accuracy(FilterPruning(score=L1()))


@pytest.fixture(scope="module")
def digits_model():
    images, labels = load_digits(return_X_y=True)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    images = (torch.tensor(images, dtype=torch.float32) / 8 - 1).view(-1, 1, 8, 8)[order]
    labels = torch.tensor(labels)[order]
    torch.manual_seed(0)
    model = create("cnn-4", num_classes=10, in_channels=1, image_size=8)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for step in range(150):
        part = slice(step * 64 % 960, step * 64 % 960 + 64)
        optimizer.zero_grad()
        F.cross_entropy(model(images[part]), labels[part]).backward()
        optimizer.step()
    return model.eval(), images, labels


def test_layers_that_are_read_by_none_that_can_be_fitted_keep_their_order():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 6, 1), nn.ReLU(), nn.ConvTranspose2d(6, 4, 2), nn.Flatten(), nn.Linear(64, 3))
    x = torch.randn(20, 3, 3, 3)
    pruning = backward_elimination(FilterPruning(score=L1()), model, [x])
    plain = model[0].weight.detach().abs().sum((1, 2, 3))
    assert torch.tensor(_scores(pruning, "0")).argsort().tolist() == plain.argsort().tolist()


class _Forked(nn.Module):
    """A group that a layer reads which can be fitted, and one which cannot."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 6, 1)
        self.one, self.other = nn.Conv2d(6, 4, 1), nn.ConvTranspose2d(6, 4, 1)

    def forward(self, x):
        x = self.stem(x).relu()
        return torch.cat([self.one(x), self.other(x)], 1).flatten(1)


def test_what_cannot_be_fitted_has_a_say_too():
    model, x = _Forked(), torch.randn(40, 3, 3, 3)
    with torch.no_grad():
        model.stem.weight[:3] *= 10.0  # the layer that can be fitted has no use for them, by its weights
        model.one.weight[:, :3] = 0.0
    alone = nn.Sequential(model.stem, nn.ReLU(), model.one, nn.Flatten())
    assert set(
        torch.tensor(_scores(backward_elimination(FilterPruning(), alone, [x]), "0")).argsort()[:3].tolist()
    ) == {
        0,
        1,
        2,
    }
    found = torch.tensor(_scores(backward_elimination(FilterPruning(), model, [x]), "stem"))
    assert set(found.argsort()[-3:].tolist()) == {0, 1, 2}
    ignored = backward_elimination(FilterPruning(), alone, [x], ignore=("2",))
    plain = FilterPruning().survey(alone, x).scores[0]
    assert torch.tensor(_scores(ignored, "0")).argsort().tolist() == plain.argsort().tolist()


def test_it_can_be_measured_again_on_what_is_left():
    model, x = _mlp(6, 16, 4), _data(12, 100, 6)
    pruning = _measured(model, x)
    half = compress(model, pruning, 0.5, example=x, reconstruct=[x]).model
    again = _measured(half, x, pruning)
    assert len(_scores(again, "0")) == 8
    assert compress(half, again, 0.5, example=x).cut.count("0") == 4


def test_the_order_does_not_depend_on_how_channels_are_scaled():
    """ReLU lets scales through, which the layer that reads can take back."""
    model, x = _mlp(6, 8, 4), _data(13, 100, 6)
    before = torch.tensor(_scores(_measured(model, x), "0"))
    with torch.no_grad():
        model[0].weight[2:5] *= 1e-3
        model[0].bias[2:5] *= 1e-3
        model[2].weight[:, 2:5] *= 1e3
    after = torch.tensor(_scores(_measured(model, x), "0"))
    assert before.argsort().tolist() == after.argsort().tolist()
    torch.testing.assert_close(after.sort().values[:-1], before.sort().values[:-1], rtol=1e-4, atol=1e-6)


def test_depthwise_layers_between_change_nothing():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 6, 1), nn.Conv2d(6, 5, 1), nn.ReLU(), nn.Conv2d(5, 3, 1)).double()
    same = nn.Conv2d(5, 5, 1, groups=5, bias=False).double()
    nn.init.ones_(same.weight)
    more = nn.Sequential(model[0], model[1], same, model[2], model[3])
    x = _data(14, 30, 2, 4, 4)
    for name in ("0", "1"):
        one, other = (_scores(_measured(net, x), name) for net in (model, more))
        assert one == pytest.approx(other, rel=1e-6)


@pytest.mark.parametrize("scope", [PerLayer(), Global()], ids=["per-layer", "global"])
def test_random_cuts_cut_as_select_does(scope):
    model, x = _mlp(6, 12, 12, 4), _data(15, 100, 6)
    pruning = _measured(model, x, FilterPruning(scope=scope))
    wanted = pruning.truncate(model, pruning.select(model, 0.5, example=x)).state_dict()
    operator_of(pruning, model, x).compress(0.5)
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in model.state_dict().items())


def test_groups_in_parts_give_the_same(monkeypatch):
    model, x = _mlp(6, 9, 8, 7, 3), _data(6, 100, 6)
    whole = _measured(model, x)
    monkeypatch.setattr(elimination, "_TOGETHER", 1)
    for (name, scores), (same, others) in zip(whole.score.values, _measured(model, x).score.values, strict=True):
        assert name == same
        assert scores == pytest.approx(others, rel=1e-9)


def test_what_is_always_zero_leaves_first_and_dead_layers_do_not_disturb():
    model, x = _mlp(6, 8, 4), _data(7, 100, 6)
    with torch.no_grad():
        model[0].weight[:3], model[0].bias[:3] = 0.0, -1.0
        model[2].weight[:, :3] *= 100.0
    scores = torch.tensor(_scores(_measured(model, x), "0"), dtype=torch.float64)
    assert set(scores.argsort()[:3].tolist()) == {0, 1, 2}
    with torch.no_grad():
        model[0].bias.fill_(-1e3)
    scores = torch.tensor(_scores(_measured(model, x), "0"), dtype=torch.float64)
    assert torch.isfinite(scores).all()
    assert len(set(scores.tolist())) == 8


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_low_precision_agrees_with_high(dtype):
    model, x = _mlp(6, 9, 4), _data(8, 400, 6)
    low = copy.deepcopy(model).to(dtype)
    found = torch.tensor(_scores(_measured(low, x.to(dtype)), "0"))
    wanted = torch.tensor(_scores(_measured(copy.deepcopy(low).double(), x.to(dtype).double()), "0"))
    tolerance = 1e-3 if dtype is torch.float32 else 5e-2
    torch.testing.assert_close(found.sort().values, wanted.sort().values, rtol=tolerance, atol=tolerance)


def test_both_and_sweeps_take_it():
    model, x = _mlp(6, 16, 16, 4), _data(9, 200, 6)
    pruning = _measured(model, x)
    done = compress(model, Both(filters=pruning), budget=Macs(0.5), example=x)
    both = Both(filters=pruning)
    difference, largest = output_difference(both.truncate(model, done.cut), done.model, x)
    assert difference <= 1e-9 * max(largest, 1.0)
    rows = sweep(model, pruning, [0.0, 0.5], example=x, evaluate=lambda m: m(x).sum().item(), reconstruct=[x])
    assert [row.fraction for row in rows] == [0.0, 0.5]


def test_bad_input_is_named():
    model, x = _mlp(6, 8, 4), _data(10, 20, 6)
    with pytest.raises(ValueError, match="at least one batch, found none"):
        backward_elimination(FilterPruning(), model, [])
    with pytest.raises(ValueError, match="ridge must be positive, found 0"):
        backward_elimination(FilterPruning(), model, [x], ridge=0)
    with pytest.raises(ValueError, match="rows must be an int of at least 1, found 0"):
        backward_elimination(FilterPruning(), model, [x], rows=0)
    with pytest.raises(ValueError, match="layer '2' reads or writes infinite or undefined numbers"):
        backward_elimination(FilterPruning(), model, [x, x * math.nan])
    with pytest.raises(TypeError) as caught:
        backward_elimination(FilterPruning(), model, [(x, torch.zeros(20))])
    assert any("pliant.compress.Inputs" in note for note in caught.value.__notes__)
    strict = FilterPruning(strict=True)
    broken = nn.Sequential(nn.Conv2d(3, 4, 1), nn.PixelShuffle(2), nn.Flatten(), nn.Linear(36, 2))
    with pytest.raises(CutError, match="strict"):
        backward_elimination(strict, broken, [torch.randn(2, 3, 3, 3)])


def test_what_is_no_pruning_of_filters_is_named():
    with pytest.raises(TypeError, match=r"pruning must be a FilterPruning, found Both.*Both\(filters=...\)"):
        backward_elimination(Both(), _mlp(6, 8, 4), [_data(16, 20, 6)])


def test_given_scores_are_checked():
    model, x = _mlp(6, 8, 4), _data(11, 20, 6)
    given = Given.of({"0": torch.arange(8)})
    assert FilterPruning(score=given).select(model, 0.5, example=x).listed("0") == (4, 5, 6, 7)
    with pytest.raises(ValueError, match="group '0' needs 8 scores, found 7"):
        FilterPruning(score=Given.of({"0": torch.arange(7)})).select(model, 0.5, example=x)
    with pytest.raises(ValueError, match="group '0' needs 8 scores, found none"):
        FilterPruning(score=Given.of({})).select(model, 0.5, example=x)
    with pytest.raises(ValueError, match="the scores of 'a' must be finite and not negative"):
        Given.of({"a": [1.0, -1.0]})
    with pytest.raises(ValueError, match="named once, found 'a' 2 times"):
        Given((("a", (1.0,)), ("a", (2.0,))))
