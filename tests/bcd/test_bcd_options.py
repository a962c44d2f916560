"""Options of a run: schedules, re-synchronisation, refit, polish, the stop, and what a run returns."""

import itertools

import pytest
import torch
from chains import NETS
from torch import nn

from pliant.bcd import (
    BlockCoordinateDescent,
    Course,
    CrossEntropy,
    Geometric,
    HardMode,
    Penalties,
    PenaltyMode,
    Polish,
    Progress,
)
from pliant.compress.factor import Factors
from pliant.sets import EntryBudget, EqualRanks, RankSet, SparseSet, TensorTrainSet
from pliant.tensor_train import TTLinear


def started(name="perceptron", sets=None, samples=60, **options):
    net = NETS[name]
    x, y = net.data(samples)
    bcd = BlockCoordinateDescent(net.model(), sets or {net.stages[0].layer: SparseSet(0.5)}, **options)
    bcd.start(x, y)
    return bcd, x, y


def test_penalties_grow_geometrically_up_to_a_limit():
    start = Penalties(1.0, 2.0, 3.0, 4.0)
    schedule = Geometric(rho=2.0, tau=3.0, every=2, times=2)
    assert [schedule.at(sweep, start).rho for sweep in range(8)] == [1, 1, 2, 2, 4, 4, 4, 4]
    assert schedule.at(7, start) == Penalties(4.0, 2.0, 27.0, 4.0)


def test_a_growing_tau_closes_the_gap():
    gaps = {}
    for tau in (1.0, 3.0):
        bcd, x, y = started()
        bcd.fit(x, y, sweeps=25, course=Course(schedule=Geometric(tau=tau, every=2)))
        gaps[tau] = bcd.gap()
    assert gaps[3.0] < 0.3 * gaps[1.0]


@pytest.mark.parametrize("name", ["perceptron", "residual images"])
def test_blocks_are_those_of_a_forward_pass_after_synchronisation(name):
    bcd, x, y = started(name)
    for _ in range(3):
        bcd.sweep(x, y)
    bcd.synchronise()
    with torch.no_grad():
        torch.testing.assert_close(bcd.samples.activations[-1], bcd.compressed()(x))
    terms = bcd.objective()
    assert float(terms.activation) < 1e-20


def test_synchronisation_happens_when_the_course_says_so():
    runs = []
    for every in (0, 2):
        bcd, x, y = started()
        bcd.fit(x, y, sweeps=4, course=Course(synchronise_every=every))
        runs.append(bcd.samples.linear[0].clone())
    bcd, x, y = started()
    bcd.fit(x, y, sweeps=2)
    bcd.synchronise()
    bcd.fit(x, y, sweeps=4)
    assert torch.equal(bcd.samples.linear[0], runs[1])
    assert not torch.equal(*runs)


def test_the_run_stops_at_the_residual_that_is_asked_for():
    bcd, x, y = started()
    seen = []
    last = bcd.fit(x, y, sweeps=500, course=Course(tolerance=0.2), on_sweep=seen.append)
    assert last.residual <= 0.2 * seen[0].residual
    assert 1 < last.sweep == len(seen) == bcd.done < 500
    assert all(progress.residual > 0.2 * seen[0].residual for progress in seen[:-1])


def test_the_run_stops_when_it_is_told_to():
    bcd, x, y = started()
    assert bcd.fit(x, y, sweeps=9, stop=lambda: bcd.done == 3).sweep == 3


def test_progress_holds_what_was_measured():
    bcd, x, y = started()
    seen = []
    bcd.fit(x, y, sweeps=5, course=Course(measure_every=2), evaluate=(x, y), on_sweep=seen.append)
    assert [progress.objective is None for progress in seen] == [True, False, True, False, False]
    last = seen[-1]
    assert last.objective == float(bcd.objective().total)
    assert last.gap == bcd.gap()
    with torch.no_grad():
        for found, model in ((last.accuracy, bcd.model), (last.compressed_accuracy, bcd.compressed())):
            assert found == pytest.approx(float((model(x).argmax(1) == y).double().mean()))
    assert str(Progress(3, 1.5, 0.25)) == "sweep 3: objective 1.5, gap 0.25"


def test_the_gap_is_relative_to_the_weights():
    bcd, _, _ = started()
    weight = bcd.model[0][0].weight.detach()
    dense = bcd.copies()["0.0"].dense
    assert bcd.gap() == pytest.approx(float((weight - dense).norm() / weight.norm()))


def test_the_compressed_model_has_the_copies_and_is_nobody_elses():
    bcd, x, y = started(sets={"0.0": SparseSet(0.3), "1": RankSet(1)})
    bcd.sweep(x, y)
    twin = bcd.compressed()
    assert int(twin.get_submodule("0.0").weight.count_nonzero()) == SparseSet(0.3).size((7, 6))
    assert int(torch.linalg.matrix_rank(twin[1].weight.detach())) == 1
    before = bcd.model[1].weight.detach().clone()
    with torch.no_grad():
        twin[1].weight.zero_()
    assert torch.equal(bcd.model[1].weight.detach(), before)


@pytest.mark.parametrize("bias", [True, False])
def test_the_refit_is_a_ridge_regression(bias):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3, bias=bias)).double()
    x, y = NETS["perceptron"].data(50)
    bcd = BlockCoordinateDescent(model, {"0": RankSet(2)}, chunk=7)
    bcd.start(x, y)
    with torch.no_grad():
        f = torch.relu(bcd.compressed()[0](x))
        f = torch.cat((f, torch.ones(50, 1)), 1) if bias else f
        old = torch.cat((model[2].weight, model[2].bias[:, None]), 1) if bias else model[2].weight.clone()
    target = torch.nn.functional.one_hot(y, 3).double()
    width = f.shape[1]
    expected = torch.linalg.inv(f.mT @ f + 50 * 0.1 * torch.eye(width)) @ (f.mT @ target + 50 * 0.1 * old.mT)
    bcd.refit(x, y, ridge=0.1)
    torch.testing.assert_close(model[2].weight.detach(), expected.mT[:, :5])
    if bias:
        torch.testing.assert_close(model[2].bias.detach(), expected.mT[:, 5])


@pytest.mark.parametrize("weight_set", [SparseSet(0.4), RankSet(2), TensorTrainSet(EqualRanks(2))], ids=repr)
def test_polish_lowers_the_loss_inside_the_sets(weight_set):
    bcd, x, y = started(sets={"0.0": weight_set, "1": weight_set}, loss=CrossEntropy(), samples=200)
    bcd.fit(x, y, sweeps=5)
    loss = lambda: float(nn.functional.cross_entropy(bcd.compressed()(x), y).detach())  # noqa: E731
    before = loss()
    bcd.polish(x, y, Polish(epochs=3, lr=0.003, project_every=2))
    assert loss() < before
    assert bcd.gap() == 0.0
    for point in bcd.copies().values():
        torch.testing.assert_close(weight_set.project(point.dense, near=point).dense, point.dense)


def test_real_targets_are_judged_by_their_loss():
    net = NETS["perceptron"]
    x, _ = net.data(30)
    y = torch.randn(30, 3, dtype=torch.float64)
    bcd = BlockCoordinateDescent(net.model(), {"0.0": SparseSet(0.5)}, chunk=7)
    last = bcd.fit(x, y, sweeps=2, evaluate=(x, y))
    assert (last.accuracy, last.compressed_accuracy) == (None, None)
    with torch.no_grad():
        for found, model in ((last.loss, bcd.model), (last.compressed_loss, bcd.compressed())):
            assert found == pytest.approx(0.5 * float((model(x) - y).square().sum()) / 30)


def test_a_polish_needs_no_gradients_around_it():
    bcd, x, y = started(sets={"0.0": RankSet(2)})
    with torch.no_grad():
        bcd.fit(x, y, sweeps=2)
        before = bcd.model[3].weight.clone()
        bcd.polish(x, y, Polish())
    assert not torch.equal(bcd.model[3].weight, before)


@pytest.mark.parametrize("frozen", [("weight",), ("bias",), ("weight", "bias")], ids="-".join)
@pytest.mark.parametrize("place", ["0.0", "3"])
def test_frozen_parameters_stay_and_the_others_descend(place, frozen):
    net = NETS["perceptron"]
    x, y = net.data(40)
    model = net.model()
    layer = model.get_submodule(place)
    for local in frozen:
        layer.get_parameter(local).requires_grad_(requires_grad=False)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    bcd = BlockCoordinateDescent(model, {"1": RankSet(2)})
    bcd.start(x, y)
    values, residuals = [float(bcd.objective().total)], []
    for _ in range(40):
        bcd.sweep(x, y)
        values.append(float(bcd.objective().total))
        residuals.append(bcd.residual())
    assert all(after <= now + 1e-9 for now, after in itertools.pairwise(values))
    assert residuals[-1] < 0.3 * residuals[0]
    bcd.polish(x, y, Polish())
    if place == "3" and len(frozen) == 1:
        bcd.refit(x, y)
    stayed = {name for name, p in model.named_parameters() if torch.equal(p, before[name])}
    assert stayed == {f"{place}.{local}" for local in frozen}


def _parameters(model):
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("mode", [PenaltyMode(), HardMode()], ids=["penalty", "hard"])
def test_the_factored_model_is_the_compressed_one_with_fewer_parameters(mode):
    torch.manual_seed(0)
    layers = nn.Conv2d(2, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(128, 24), nn.ReLU()
    model = nn.Sequential(*layers, nn.Linear(24, 16, bias=False), nn.ReLU(), nn.Linear(16, 3)).double()
    sets = {
        "0": SparseSet(0.5),
        "2": RankSet(2),
        "5": TensorTrainSet(EntryBudget(0.2)),
        "7": RankSet(3),
        "9": RankSet(3),  # of a matrix of 3 rows: two layers would be larger
    }
    x, y = torch.randn(20, 2, 8, 8).double(), torch.arange(20) % 3
    bcd = BlockCoordinateDescent(model, sets, mode=mode)
    bcd.fit(x, y, sweeps=2)
    dense, small = bcd.compressed(), bcd.factored()
    torch.testing.assert_close(small(x), dense(x), rtol=1e-9, atol=1e-9)
    kinds = [type(small[int(name)]) for name in sets]
    assert kinds == [nn.Conv2d, Factors, TTLinear, Factors, nn.Linear]
    saved = sum(model[int(name)].weight.numel() - sets[name].size(model[int(name)].weight.shape) for name in "27")
    stored = sum(factor.numel() for factor in bcd.copies()["5"].factors)
    assert _parameters(small) == _parameters(dense) - saved - (128 * 24 - stored)
