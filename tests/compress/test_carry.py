"""Optimizers follow a model through its cut."""

from __future__ import annotations

import copy
import gc
import io
import weakref

import carrying
import pytest
import torch
from carrying import batches, build, cut, masks, rebuilt_state, same_bits, small_of, train
from torch import nn
from torch.optim import (
    ASGD,
    SGD,
    Adadelta,
    Adafactor,
    Adagrad,
    Adam,
    Adamax,
    AdamW,
    NAdam,
    Optimizer,
    RAdam,
    RMSprop,
    Rprop,
)

from pliant.compress import UnstructuredPruning
from pliant.compress.carry import CarryError, carry_over, move_optimizer
from pliant.methods import Around, CrAM, Cramming, RandomCut, SpectralDecay, matrix_targets, operator_of


class Lion(Optimizer):
    """Sign of an average of gradients; as in some published packages, a number is kept beside the groups."""

    def __init__(self, params, lr):
        super().__init__(params, {"lr": lr, "weight_decay": 0.01})
        self.betas = (0.9, 0.99)

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in (p for p in group["params"] if p.grad is not None):
                state = self.state[p]
                average = state.setdefault("exp_avg", torch.zeros_like(p))
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.sub_(torch.lerp(p.grad, average, self.betas[0]).sign(), alpha=group["lr"])
                average.lerp_(p.grad, 1 - self.betas[1])


OPTIMIZERS = {
    "sgd": lambda ps: SGD(ps, 0.05, momentum=0.9, weight_decay=1e-3),
    "nesterov": lambda ps: SGD(ps, 0.05, momentum=0.9, nesterov=True, foreach=True),
    "plain sgd": lambda ps: SGD(ps, 0.05),
    "adam": lambda ps: Adam(ps, 1e-2, amsgrad=True),
    "adamw": lambda ps: AdamW(ps, 1e-2),
    "fused adamw": lambda ps: AdamW(ps, 1e-2, fused=True),
    "adamw, lr a tensor": lambda ps: AdamW(ps, torch.tensor(1e-2), foreach=False),
    "rmsprop": lambda ps: RMSprop(ps, 1e-3, momentum=0.9, centered=True),
    "adagrad": lambda ps: Adagrad(ps, 1e-2),
    "adadelta": Adadelta,
    "adamax": lambda ps: Adamax(ps, 1e-2),
    "nadam": lambda ps: NAdam(ps, 1e-2),
    "radam": lambda ps: RAdam(ps, 1e-2),
    "asgd": lambda ps: ASGD(ps, 1e-2),
    "rprop": lambda ps: Rprop(ps, 1e-3),
    "lion": lambda ps: Lion(ps, 1e-3),
}

FEW = ["nesterov", "adamw, lr a tensor", "adagrad", "lion"]


def two_groups(model, make):
    """Decay nothing but matrices, as many recipes do."""
    params = list(model.named_parameters())
    matrices = [pair for pair in params if pair[1].ndim > 1]
    vectors = [pair for pair in params if pair[1].ndim <= 1]
    return make([{"params": matrices, "weight_decay": 0.02}, {"params": vectors}])


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_cut_and_continue_is_building_the_small_model_from_sliced_state(name):
    model = build()
    optimizer = two_groups(model, OPTIMIZERS[name])
    train(model, optimizer, batches(3))
    small, reference = small_of(model), small_of(model)
    carried = carry_over(optimizer, model, small, cut()).optimizer
    built = rebuilt_state(optimizer, model, reference, two_groups(reference, OPTIMIZERS[name]))
    data = batches(5, seed=8)
    assert same_bits(train(small, carried, data), train(reference, built, data))


@pytest.mark.parametrize("name", FEW)
def test_moving_in_place_and_carrying_over_are_the_same(name):
    model = build()
    optimizer = OPTIMIZERS[name](model.parameters())
    train(model, optimizer, batches(3))
    copied, moved = small_of(model), small_of(model)
    carried = carry_over(optimizer, model, copied, cut())
    report = move_optimizer(optimizer, model, moved, cut())
    assert report == carried.report
    data = batches(3, seed=8)
    assert same_bits(train(copied, carried.optimizer, data), train(moved, optimizer, data))


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_the_small_model_goes_the_way_of_the_truncated_one(name):
    model = build(torch.float64)
    optimizer = OPTIMIZERS[name](model.parameters())
    train(model, optimizer, batches(3, torch.float64))
    small = small_of(model)
    carried = carry_over(optimizer, model, small, cut()).optimizer
    mask = masks(model)

    @torch.no_grad()
    def hold():
        for key, p in model.named_parameters():
            p.mul_(mask[key])

    hold()
    data = batches(5, torch.float64, seed=8)
    train(model, optimizer, data, after_step=hold)
    train(small, carried, data)
    expected = small_of(model).state_dict()
    for key, value in small.state_dict().items():
        torch.testing.assert_close(value, expected[key], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", FEW)
def test_parameters_are_exactly_those_of_the_small_model(name):
    model = build()
    optimizer = two_groups(model, OPTIMIZERS[name])
    train(model, optimizer, batches(1))
    small = small_of(model)
    carried = carry_over(optimizer, model, small, cut()).optimizer
    trained = [p for group in carried.param_groups for p in group["params"]]
    assert sorted(map(id, trained)) == sorted(map(id, small.parameters()))
    assert set(map(id, carried.state)) <= set(map(id, trained))
    names = [n for group in carried.param_groups for n in group["param_names"]]
    assert all(dict(small.named_parameters())[n] is p for n, p in zip(names, trained, strict=True))


def test_nothing_holds_the_old_model_after_the_move():
    model = build()
    optimizer = AdamW(model.parameters())
    train(model, optimizer, batches(1))
    old = [weakref.ref(p) for p in model.parameters()]
    old += [weakref.ref(value) for state in optimizer.state.values() for value in state.values()]
    small = small_of(model)
    move_optimizer(optimizer, model, small, cut())
    del model
    gc.collect()
    assert not [ref for ref in old if ref() is not None]


@pytest.mark.parametrize("name", FEW)
def test_the_old_optimizer_stays_as_it_is(name):
    model = build()
    optimizer = OPTIMIZERS[name](model.parameters())
    train(model, optimizer, batches(2))
    twin = build()
    untouched = OPTIMIZERS[name](twin.parameters())
    train(twin, untouched, batches(2))
    small = small_of(model)
    train(small, carry_over(optimizer, model, small, cut()).optimizer, batches(2, seed=8))
    data = batches(3, seed=9)
    assert same_bits(train(model, optimizer, data), train(twin, untouched, data))


@pytest.mark.parametrize("name", FEW)
def test_carried_state_survives_a_checkpoint(name):
    model = build()
    optimizer = OPTIMIZERS[name](model.parameters())
    train(model, optimizer, batches(2))
    small = small_of(model)
    carried = carry_over(optimizer, model, small, cut()).optimizer
    file = io.BytesIO()
    torch.save({"model": small.state_dict(), "optimizer": carried.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    resumed = carrying.Net(*carrying.CUT_WIDTHS)
    resumed.load_state_dict(saved["model"])
    other = OPTIMIZERS[name](resumed.parameters())
    other.load_state_dict(saved["optimizer"])
    data = batches(3, seed=8)
    assert same_bits(train(small, carried, data), train(resumed, other, data))


def test_the_report_names_every_parameter_once():
    model = build()
    optimizer = SGD(model.parameters(), 0.1, momentum=0.9)
    train(model, optimizer, batches(1))
    report = move_optimizer(optimizer, model, small_of(model), cut())
    assert sorted((*report.carried, *report.sliced)) == sorted(name for name, _ in model.named_parameters())
    assert report.carried == ("fc.bias",)
    assert report.fresh == report.dropped == ()


def test_frozen_and_untrained_parameters_stay_out():
    model = build()
    optimizer = SGD([model.conv1.weight, model.fc.bias], 0.1, momentum=0.9)
    small = small_of(model)
    move_optimizer(optimizer, model, small, cut())
    assert [id(p) for p in optimizer.param_groups[0]["params"]] == [id(small.conv1.weight), id(small.fc.bias)]


def test_an_optimizer_that_has_not_stepped_is_carried():
    model = build()
    small, reference = small_of(model), small_of(model)
    carried = carry_over(AdamW(model.parameters()), model, small, cut()).optimizer
    data = batches(3)
    assert same_bits(train(small, carried, data), train(reference, AdamW(reference.parameters()), data))


def test_memory_format_is_kept():
    model = build().to(memory_format=torch.channels_last)
    optimizer = SGD(model.parameters(), 0.1, momentum=0.9)
    train(model, optimizer, [(x.to(memory_format=torch.channels_last), y) for x, y in batches(1)])
    small = small_of(model).to(memory_format=torch.channels_last)
    move_optimizer(optimizer, model, small, cut())
    buffer = optimizer.state[small.conv1.weight]["momentum_buffer"]
    assert buffer.is_contiguous(memory_format=torch.channels_last)
    assert not buffer.is_contiguous()


def test_tied_weights_are_one_parameter():
    class Tied(nn.Module):
        def __init__(self, width):
            super().__init__()
            self.table, self.out = nn.Embedding(7, width), nn.Linear(width, 7, bias=False)
            self.out.weight = self.table.weight

        def forward(self, x):
            return self.out(self.table(x))

    model, small = Tied(4), Tied(3)
    optimizer = SGD(model.parameters(), 0.1, momentum=0.9)
    model(torch.arange(5)).square().sum().backward()
    optimizer.step()
    group = carrying.ChannelGroup("table", 4, (carrying.member("table.weight", 1, 4, 4),))
    narrow = carrying.Cut("FilterPruning", {}, 0.25, {"table": 4}, {"table": (0, 1, 3)}, {"table": group})
    before = optimizer.state[model.table.weight]["momentum_buffer"]
    move_optimizer(optimizer, model, small, narrow)
    assert torch.equal(optimizer.state[small.out.weight]["momentum_buffer"], before[:, [0, 1, 3]])


class Keeper(SGD):
    """Keeps an entry of any kind beside every parameter."""

    def __init__(self, params, entry):
        super().__init__(params, 0.1)
        for group in self.param_groups:
            for p in group["params"]:
                self.state[p]["entry"] = entry(p)


def carried_entries(entry, *, strict=True):
    model = build()
    small = small_of(model)
    done = carry_over(Keeper(model.parameters(), entry), model, small, cut(), strict=strict)
    names = {id(p): name for name, p in small.named_parameters()}
    return {names[id(p)]: state["entry"] for p, state in done.optimizer.state.items()}, done.report


@pytest.mark.parametrize("dim", [0, 1])
def test_factored_moments_lose_the_slices_of_their_dimension(dim):
    model = build()

    def moments(p):
        others = [d for d in range(p.ndim) if d != dim]
        return p.detach().mean(others, keepdim=True) if p.ndim > dim else p.detach().clone()

    found, _ = carried_entries(moments)
    for name, p in model.named_parameters():
        assert torch.equal(found[name], moments_of_slices(name, p, moments))


def moments_of_slices(name, p, moments):
    """Slice the moments, by way of a tensor of the parameter's shape."""
    wide = carrying.sliced(name, moments(p).expand(p.shape).contiguous())
    return wide[tuple(slice(0, 1) if size == 1 else slice(None) for size in moments(p).shape)]


def test_vectors_with_one_number_a_row_are_sliced_where_no_other_reading_exists():
    found, _ = carried_entries(lambda p: torch.arange(1 if p.shape == (8, 8, 1, 1) else len(p)))
    assert found["conv1.weight"].tolist() == carrying.INNER
    assert found["conv3.weight"].tolist() == carrying.OUTPUTS


def test_adafactor_goes_on():
    model = build()
    optimizer = Adafactor(model.parameters(), 1e-2)
    train(model, optimizer, batches(2))
    small = small_of(model)
    carried = carry_over(optimizer, model, small, cut()).optimizer
    rows = {name: optimizer.state[p].get("row_var") for name, p in model.named_parameters()}
    assert torch.equal(
        carried.state[small.conv1.weight]["row_var"], rows["conv1.weight"][carrying.INNER][:, carrying.STREAM]
    )
    train(small, carried, batches(3, seed=8))


@pytest.mark.parametrize(
    ("entry", "what"),
    [
        (lambda _: torch.zeros(4099), r"of shape \(4099,\)"),
        (lambda p: [torch.zeros_like(p)], "a list"),
        (lambda p: {"v": torch.zeros_like(p)}, "a dict"),
        (lambda _: torch.Generator(), "a Generator"),
    ],
)
def test_state_that_nobody_understands_is_refused_by_name_or_given_up(entry, what):
    with pytest.raises(CarryError, match=f"Keeper keeps 'entry' beside 'stem.weight', {what}.*strict=False"):
        carried_entries(entry)
    found, report = carried_entries(entry, strict=False)
    assert set(found) == {"fc.bias"}
    assert set(report.fresh) == {name for name, _ in build().named_parameters()} - {"fc.bias"}
    assert "stem.weight: entry" in report.dropped


def test_a_vector_that_fits_rows_and_columns_is_refused():
    layer, small = nn.Linear(4, 4), nn.Linear(4, 3)
    group = carrying.ChannelGroup("", 4, (carrying.member("weight", 0, 4, 4), carrying.member("bias", 0, 4, 4)))
    rows = carrying.Cut("FilterPruning", {}, 0.25, {"": 4}, {"": (0, 1, 2)}, {"": group})
    with pytest.raises(CarryError, match="nothing says"):
        carry_over(Keeper(layer.parameters(), lambda _: torch.zeros(4)), layer, small, rows)


def test_numbers_and_plain_values_are_copied():
    found, _ = carried_entries(lambda p: (torch.tensor(3.0), torch.tensor([4]), "five", None, 6)[p.numel() % 5])
    assert {str(value) for value in found.values()} <= {"tensor(3.)", "tensor([4])", "five", "None", "6"}


def test_a_copy_in_higher_precision_agrees_with_the_weights_that_the_cut_left():
    """Else the next step, which starts from the copy, would bring back what a cut has set to zero."""
    model = nn.Linear(5, 4).to(torch.bfloat16)
    fine = {id(p): p.detach().float() * 1.0005 for p in model.parameters()}
    optimizer = Keeper(model.parameters(), lambda p: fine[id(p)])
    assert all(torch.equal(fine[id(p)].to(p.dtype), p) for p in model.parameters())
    group = carrying.ChannelGroup("", 5, (carrying.member("weight", 1, 5, 5),))
    columns = carrying.Cut("FilterPruning", {}, 0.2, {"": 5}, {"": (0, 2, 3, 4)}, {"": group})
    small = nn.Linear(4, 4).to(torch.bfloat16)
    with torch.no_grad():
        small.weight.copy_(model.weight[:, [0, 2, 3, 4]])
        small.bias.copy_(model.bias)
        small.weight[1] = small.bias[2] = 0
    move_optimizer(optimizer, model, small, columns)
    for p, expected in ((small.weight, fine[id(model.weight)][:, [0, 2, 3, 4]]), (small.bias, fine[id(model.bias)])):
        found = optimizer.state[p]["entry"]
        assert torch.equal(found, torch.where(p == 0, 0.0, expected))


def refused(optimizer, model, small, text, used=None):
    before = copy.deepcopy(optimizer.state_dict())
    for carry in (carry_over, move_optimizer):
        with pytest.raises(CarryError, match=text):
            carry(optimizer, model, small, used or cut())
    after = optimizer.state_dict()
    assert str(before) == str(after)


def test_a_foreign_model_is_refused():
    model, other = build(), build()
    refused(
        SGD(model.parameters(), 0.1),
        other,
        small_of(other),
        "group 0 of SGD trains a parameter of shape .* not the model's",
    )
    refused(SGD(model.named_parameters(), 0.1), other, small_of(other), "trains a parameter stem.weight which")


def test_a_foreign_small_model_is_refused():
    model = build()
    optimizer = SGD(model.parameters(), 0.1)
    refused(optimizer, model, build(), "'stem.weight' of the smaller model must have the shape")
    refused(
        optimizer, model, nn.Sequential(small_of(model)), "'0.stem.weight' of the smaller model replaces no parameter"
    )
    refused(optimizer, model, model, "must be a copy")


def test_a_foreign_cut_is_refused():
    model = build()
    group = carrying.ChannelGroup("fc", 9, (carrying.member("fc.bias", 0, 9, 9),))
    foreign = carrying.Cut("FilterPruning", {}, 0.5, {"fc": 9}, {"fc": (0, 1)}, {"fc": group})
    refused(SGD(model.parameters(), 0.1), model, build(), "dimension 0 of 'fc.bias' that shape", foreign)


def test_a_wrapper_is_refused():
    class Wrapper(Optimizer):
        def __init__(self, inner):
            self.optimizer = inner

        @property
        def param_groups(self):
            return self.optimizer.param_groups

    model = build()
    with pytest.raises(CarryError, match="Wrapper is a wrapper"):
        move_optimizer(Wrapper(SGD(model.parameters(), 0.1)), model, small_of(model), cut())


@pytest.mark.parametrize("carry", [move_optimizer, carry_over])
@pytest.mark.parametrize("kind", [RandomCut, CrAM, Around])
def test_an_optimizer_around_another_one_is_refused_and_left_as_it_is(kind, carry):
    model = build()
    compressor = UnstructuredPruning()
    operator = operator_of(compressor, model, batches(1)[0][0])
    inner = SGD(model.parameters(), 0.1, momentum=0.9)
    outer = {
        RandomCut: lambda: RandomCut(inner, model, [operator], (0.0, 0.5)),
        CrAM: lambda: CrAM(inner, model, operator, Cramming((0.5,))),
        Around: lambda: Around(inner, [SpectralDecay(matrix_targets(model), 0.1)]),
    }[kind]()
    groups, before = [dict(group) for group in outer.param_groups], vars(outer).copy()
    with pytest.raises(CarryError, match=f"{kind.__name__} goes around the SGD in its attribute 'inner'"):
        carry(outer, model, small_of(model), cut())
    assert outer.param_groups == groups
    assert vars(outer) == before
    move_optimizer(outer.inner, model, small_of(model), cut())


def test_parameters_kept_outside_the_groups_are_refused():
    model = build()
    optimizer = torch.optim.LBFGS(model.parameters())
    with pytest.raises(CarryError, match="LBFGS keeps parameters in its attribute '_params'"):
        move_optimizer(optimizer, model, small_of(model), cut())
