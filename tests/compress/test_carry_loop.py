"""A training loop goes on after a cut: schedulers, averages of weights, and the compressors themselves."""

from __future__ import annotations

import copy
import io

import pytest
import torch
import torch.nn.functional as F
from carrying import Net, batches, build, same_bits, train
from compressible import Attention
from torch.optim import SGD, Adagrad, Adam, AdamW
from torch.optim.lr_scheduler import (
    ChainedScheduler,
    CosineAnnealingLR,
    CyclicLR,
    ExponentialLR,
    LambdaLR,
    LinearLR,
    OneCycleLR,
    ReduceLROnPlateau,
    SequentialLR,
)
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from pliant.compress import FilterPruning, Layers, LowRank, UnstructuredPruning
from pliant.compress.carry import CarryError, carry_module, carry_over, carry_scheduler, move_optimizer
from pliant.models.resnet import resnet20
from pliant.optim import SFW
from pliant.structure.plan import Plan

X = torch.zeros(2, 3, 6, 6)


def pruned(model, fraction=0.5, compressor=None, example=X):
    compressor = compressor or FilterPruning()
    cut = compressor.select(model, fraction, example=example)
    return compressor.realise(model, cut), cut


SCHEDULERS = {
    "lambda": lambda o: LambdaLR(o, lambda step: 0.9**step),
    "cosine": lambda o: CosineAnnealingLR(o, 10),
    "cyclic": lambda o: CyclicLR(o, 0.01, 0.1, step_size_up=3),
    "one cycle": lambda o: OneCycleLR(o, 0.1, total_steps=12),
    "sequential": lambda o: SequentialLR(o, [LinearLR(o, 0.1, total_iters=3), ExponentialLR(o, 0.8)], [3]),
    "chained": lambda o: ChainedScheduler([LinearLR(o, 0.1, total_iters=3), ExponentialLR(o, 0.8)]),
}


def rates(optimizer, scheduler, model, steps):
    found = []
    for batch in batches(steps):
        train(model, optimizer, [batch])
        scheduler.step()
        found += [(float(group["lr"]), group["momentum"]) for group in optimizer.param_groups]
    return found


@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_scheduler_drives_the_moved_optimizer_as_if_nothing_had_happened(name):
    model = build()
    optimizer = SGD(model.parameters(), 0.1, momentum=0.9)
    scheduler = SCHEDULERS[name](optimizer)
    rates(optimizer, scheduler, model, 2)
    other = build()
    expected = rates(*scheduled(other, name), other, 7)[2:]
    small, cut = pruned(model)
    move_optimizer(optimizer, model, small, cut)
    assert rates(optimizer, scheduler, small, 5) == expected


def scheduled(model, name):
    optimizer = SGD(model.parameters(), 0.1, momentum=0.9)
    return optimizer, SCHEDULERS[name](optimizer)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_carried_scheduler_drives_the_new_optimizer_and_the_old_one_is_left_as_it_is(name):
    model = build()
    optimizer, scheduler = scheduled(model, name)
    rates(optimizer, scheduler, model, 2)
    other = build()
    expected = rates(*scheduled(other, name), other, 7)[2:]
    small, cut = pruned(model)
    carried = carry_over(optimizer, model, small, cut).optimizer
    before, weights = optimizer.param_groups[0]["lr"], copy.deepcopy(small.state_dict())
    assert rates(carried, carry_scheduler(scheduler, carried), small, 5) == expected
    assert optimizer.param_groups[0]["lr"] == before
    assert rates(optimizer, scheduler, model, 5) == expected
    assert not any(torch.equal(weights[key], value) for key, value in small.named_parameters())


def test_a_plateau_scheduler_is_carried():
    model = build()
    optimizer = SGD(model.parameters(), 0.1)
    scheduler = ReduceLROnPlateau(optimizer, patience=0)
    small, cut = pruned(model)
    carried = carry_over(optimizer, model, small, cut).optimizer
    moved = carry_scheduler(scheduler, carried)
    for _ in range(3):
        moved.step(1.0)
    assert carried.param_groups[0]["lr"] < 0.1 == optimizer.param_groups[0]["lr"]


def test_a_learning_rate_that_is_a_tensor_is_not_shared():
    model = build()
    optimizer = AdamW(model.parameters(), torch.tensor(0.1), foreach=False)
    small, cut = pruned(model)
    carried = carry_over(optimizer, model, small, cut).optimizer
    carried.param_groups[0]["lr"].fill_(7.0)
    assert optimizer.param_groups[0]["lr"] == torch.tensor(0.1)


def test_a_scheduler_of_another_number_of_groups_is_refused():
    model = build()
    optimizer = SGD([{"params": [model.fc.weight]}, {"params": [model.fc.bias]}], 0.1)
    with pytest.raises(CarryError, match="drives 2 parameter groups, the optimizer has 1"):
        carry_scheduler(ExponentialLR(optimizer, 0.9), SGD(model.parameters(), 0.1))


def test_a_gradient_scaler_goes_on_with_the_moved_optimizer():
    model = build()
    optimizer, scaler = SGD(model.parameters(), 0.1, momentum=0.9), torch.amp.GradScaler("cpu", init_scale=8.0)

    def step(model, batch):
        optimizer.zero_grad()
        scaler.scale(F.cross_entropy(model(batch[0]), batch[1])).backward()
        scaler.step(optimizer)
        scaler.update()

    step(model, batches(1)[0])
    small, cut = pruned(model)
    move_optimizer(optimizer, model, small, cut)
    before = copy.deepcopy(small.state_dict())
    step(small, batches(1)[0])
    assert not torch.equal(before["fc.weight"], small.fc.weight)


def ema(model):
    return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.8), use_buffers=True)


def averaged(model, optimizer, average, count, seed):
    for batch in batches(count, seed=seed):
        train(model, optimizer, [batch])
        average.update_parameters(model)


def test_a_carried_average_is_the_average_that_lost_the_slices_of_the_model():
    model = build()
    optimizer, average = SGD(model.parameters(), 0.1, momentum=0.9), ema(model)
    averaged(model, optimizer, average, 3, seed=1)
    small, cut = pruned(model)
    carried = carry_module(average, cut, FilterPruning())
    assert int(carried.n_averaged) == int(average.n_averaged) == 3
    assert carried.use_buffers
    assert carried.module.conv1.weight.shape == small.conv1.weight.shape
    stay = torch.tensor(cut.listed("conv1"))
    assert torch.equal(carried.module.bn1.bias, average.module.bn1.bias[stay])
    move_optimizer(optimizer, model, small, cut)
    before = [p.clone() for p in carried.parameters()]
    average_before = [p.clone() for p in average.parameters()]
    averaged(small, optimizer, carried, 1, seed=2)
    for new, old, p in zip(carried.parameters(), before, small.parameters(), strict=True):
        torch.testing.assert_close(new, 0.8 * old + 0.2 * p.detach())
    assert all(torch.equal(a, b) for a, b in zip(average.parameters(), average_before, strict=True))


def test_a_plain_copy_is_carried():
    model = build()
    average = copy.deepcopy(model)
    small, cut = pruned(model)
    assert same_bits(carry_module(average, cut, FilterPruning()), small)


def test_an_average_of_what_becomes_factors_is_refused():
    model = build()
    _, cut = pruned(model, 0.7, LowRank())
    with pytest.raises(CarryError, match=r"replaces weights by factors such as '.*start a new one"):
        carry_module(ema(model), cut, LowRank())


@pytest.mark.parametrize("make", [lambda p: SGD(p, 0.1, momentum=0.9), Adam, Adagrad], ids=["sgd", "adam", "adagrad"])
def test_factors_start_afresh_in_the_group_of_their_weight_and_the_rest_goes_on(make):
    model = Net(width=24, inner=24)
    optimizer = make(
        [{"params": [model.conv1.weight, model.conv1.bias or model.fc.bias]}, {"params": [model.conv2.weight]}]
    )
    train(model, optimizer, batches(2))
    small, cut = pruned(model, 0.8, LowRank(layers=Layers.CONVOLUTIONS))
    carried = carry_over(optimizer, model, small, cut)
    one, two = (group["params"] for group in carried.optimizer.param_groups)
    assert list(map(id, one)) == [id(small.conv1[0].weight), id(small.conv1[1].weight), id(small.fc.bias)]
    assert list(map(id, two)) == [id(small.conv2[0].weight), id(small.conv2[1].weight)]
    assert carried.report.fresh == ("conv1.0.weight", "conv1.1.weight", "conv2.0.weight", "conv2.1.weight")
    assert carried.report.carried == ("fc.bias",)
    assert carried.report.dropped == ("conv1.weight", "conv2.weight")
    old, new = optimizer.state[model.fc.bias], carried.optimizer.state[small.fc.bias]
    assert all(torch.equal(old[key], new[key]) for key in old)
    before = [p.detach().clone() for p in (*one, *two)]
    train(small, carried.optimizer, batches(2))
    assert not any(torch.equal(a, b) for a, b in zip(before, (*one, *two), strict=True))


def test_factors_under_adagrad_have_the_state_that_its_constructor_would_give_them():
    model = Net(width=24, inner=24)
    optimizer = Adagrad([model.conv1.weight], 0.1, initial_accumulator_value=0.3)
    small, cut = pruned(model, 0.8, LowRank(layers=Layers.CONVOLUTIONS))
    move_optimizer(optimizer, model, small, cut)
    for p in small.conv1.parameters():
        assert torch.equal(optimizer.state[p]["sum"], torch.full_like(p, 0.3))


def test_a_bias_that_moves_into_a_factor_keeps_its_state():
    model = torch.nn.Sequential(torch.nn.Linear(20, 20), torch.nn.ReLU(), torch.nn.Linear(20, 3))
    optimizer = Adam(model.named_parameters())
    model(torch.randn(4, 20)).square().sum().backward()
    optimizer.step()
    small, cut = pruned(model, 0.8, LowRank(), torch.randn(4, 20))
    moments = optimizer.state[model[0].bias]["exp_avg"].clone()
    report = move_optimizer(optimizer, model, small, cut)
    assert torch.equal(optimizer.state[small[0][1].bias]["exp_avg"], moments)
    assert optimizer.param_groups[0]["param_names"] == ["0.0.weight", "0.1.weight", "0.1.bias", "2.weight", "2.bias"]
    assert report.carried == ("0.1.bias", "2.weight", "2.bias")


def test_factors_are_no_points_of_the_regions_of_their_weights():
    model = Net(width=24, inner=24)
    optimizer = SFW(Plan.for_low_rank(model, k=0.3), lr=0.1)
    train(model, optimizer, batches(1))
    small, cut = pruned(model, 0.8, LowRank(layers=Layers.CONVOLUTIONS))
    with pytest.raises(CarryError, match=r"'.*weight' is \(part of\) a point of a region.*build a new optimizer"):
        carry_over(optimizer, model, small, cut)
    for group in optimizer.param_groups:
        if group["region"] is not None:
            group |= {"region": None, "lr": 0.05}
    move_optimizer(optimizer, model, small, cut)
    train(small, optimizer, batches(2))


def test_single_weights_go_without_a_trace_in_shapes():
    model = build()
    optimizer = SGD(model.parameters(), 0.1, momentum=0.9)
    train(model, optimizer, batches(1))
    small, cut = pruned(model, 0.5, UnstructuredPruning())
    report = move_optimizer(optimizer, model, small, cut)
    assert report.carried == tuple(name for name, _ in model.named_parameters())
    assert torch.count_nonzero(optimizer.state[small.fc.weight]["momentum_buffer"]) > 0


def two_cuts(model, optimizer):
    small, cut = pruned(model, 0.5)
    move_optimizer(optimizer, model, small, cut)
    smaller, cut = pruned(small, 0.5)
    move_optimizer(optimizer, small, smaller, cut)
    return smaller


def test_one_cut_after_another():
    model = build()
    optimizer = AdamW(model.parameters())
    train(model, optimizer, batches(2))
    smaller = two_cuts(model, optimizer)
    train(smaller, optimizer, batches(2))
    assert {id(p) for group in optimizer.param_groups for p in group["params"]} == set(map(id, smaller.parameters()))


def test_attention_heads_go_with_their_state():
    model = Attention()
    example = torch.randn(2, 3, 8, 8)
    optimizer = AdamW(model.parameters())
    model(example).square().mean().backward()
    optimizer.step()
    small, cut = pruned(model, 0.4, FilterPruning(layers=Layers.ALL), example)
    report = move_optimizer(optimizer, model, small, cut)
    assert "attention.in_proj_weight" in report.sliced
    for p in small.parameters():
        assert optimizer.state[p]["exp_avg"].shape == p.shape
    small(example).square().mean().backward()
    optimizer.step()


@pytest.mark.parametrize("method", ["sgd", "sfw"])
def test_a_resnet_goes_on_and_its_checkpoint_resumes_bit_by_bit(method):
    torch.manual_seed(0)
    model = resnet20(num_classes=5, in_channels=3, image_size=6, widths=(4, 8, 8))
    optimizer = SGD(model.parameters(), 0.1, momentum=0.9)
    if method == "sfw":
        plan = Plan.for_filters(model, k=0.4)
        plan.make_feasible()
        optimizer = SFW(plan, lr=0.1)
    train(model, optimizer, batches(2))
    small, cut = pruned(model)
    move_optimizer(optimizer, model, small, cut)
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    again, twin = copy.deepcopy(small), None
    twin = SGD(again.parameters(), 1.0) if method == "sgd" else SFW(Plan.for_filters(again, k=0.9), lr=1.0)
    file.seek(0)
    twin.load_state_dict(torch.load(file, weights_only=True))
    data = batches(2, seed=8)
    assert same_bits(train(small, optimizer, data), train(again, twin, data))
