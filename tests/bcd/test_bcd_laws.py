"""Each block descends, so does a sweep, the residual goes to zero as it must, and none of it depends on the chunk."""

import copy
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from chains import NETS, Blocks, objective
from torch import nn

from pliant.bcd import BlockCoordinateDescent, Course, CrossEntropy, HardMode, Hinge, PenaltyMode, Squared
from pliant.bcd.moments import Moments
from pliant.bcd.objective import objective as ours
from pliant.bcd.samples import Samples
from pliant.bcd.stationarity import stationarity
from pliant.bcd.steps import activation_goal, activation_step, linear_step, output_step, weight_step
from pliant.sets import EqualRanks, FilterSparseSet, NMSparseSet, RankSet, SparseSet, TensorTrainSet

PENALTIES = {"rho": 0.7, "gamma": 1.3, "tau": 0.4, "alpha": 0.9}
LOSSES = [Squared(), Hinge(), CrossEntropy()]
SETS = [SparseSet(0.3), RankSet(2), FilterSparseSet(0.5), NMSparseSet(1, 3), TensorTrainSet(EqualRanks(2))]


TWO = (SparseSet(0.4), RankSet(1))


def descent(name, *, sets=TWO, dtype=torch.float64, samples=12, **options):
    net = NETS[name]
    model = net.model(dtype)
    x, y = net.data(samples, dtype)
    chosen = {stage.layer: one for stage, one in zip(net.stages, sets, strict=False)}
    bcd = BlockCoordinateDescent(model, chosen, **(PENALTIES | options))
    bcd.start(x, y)
    return bcd, x, y


def moved(name, **options):
    """A descent after some sweeps: all blocks are in general position."""
    bcd, x, y = descent(name, **options)
    for _ in range(3):
        bcd.sweep(x, y)
    return bcd, x, y


def with_block(samples, kind, index, value):
    blocks = list(getattr(samples, kind))
    blocks[index] = value
    return replace(samples, **{kind: tuple(blocks)})


def assert_minimises(cost, new, old, *, seed=0):
    """No larger than at the old value, and no perturbation is better."""
    reached = cost(new)
    assert reached <= cost(old) * (1 + 1e-13)
    generator = torch.Generator().manual_seed(seed)
    for size in (1e-4, 1e-2, 1.0):
        for _ in range(10):
            noise = torch.randn(new.shape, generator=generator, dtype=new.dtype)
            assert reached <= cost(new + size * noise) * (1 + 1e-13)
    for share in (0.01, 0.5, 0.99):
        assert reached <= cost(torch.lerp(new, old, share)) * (1 + 1e-13)


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: type(loss).__name__)
@pytest.mark.parametrize("name", ["perceptron", "linear inside"])
def test_the_outputs_minimise_their_block(name, loss):
    bcd, _, _ = moved(name, loss=loss)
    samples, last = bcd.samples, len(NETS[name].stages)
    old = samples.activations[-1]

    def cost(v):
        part = with_block(samples, "activations", last, v)
        return float(full(bcd, part) + 0.5 * PENALTIES["alpha"] * (v - old).square().sum())

    assert_minimises(cost, output_step(bcd.problem, samples), old)


@pytest.mark.parametrize("name", [name for name in NETS if name != "one layer"])
def test_activations_minimise_their_block(name):
    bcd, _, _ = moved(name, conjugate_steps=60, samples=4)
    samples = bcd.samples
    for index in range(len(NETS[name].stages) - 1):
        goal = activation_goal(bcd.problem, samples, index)
        with torch.no_grad():
            new = activation_step(bcd.problem, samples, index, goal).v
        cost = lambda v, i=index: float(full(bcd, with_block(samples, "activations", i + 1, v)))  # noqa: E731
        assert_minimises(cost, new, samples.activations[index + 1])


@pytest.mark.parametrize("steps", [1, 2, 5])
@pytest.mark.parametrize("name", ["images", "residual images"])
def test_any_number_of_conjugate_steps_descends_by_the_quadratic_of_the_move(name, steps):
    bcd, _, _ = descent(name, conjugate_steps=steps)
    samples = bcd.samples
    samples.linear[1].mul_(1.5)
    old = samples.activations[1]
    goal = activation_goal(bcd.problem, samples, 0)
    with torch.no_grad():
        new = activation_step(bcd.problem, samples, 0, goal).v
    before, after = full(bcd, samples), full(bcd, with_block(samples, "activations", 1, new))
    assert float(after + 0.5 * PENALTIES["gamma"] * (new - old).square().sum()) < float(before)


@pytest.mark.parametrize("name", NETS)
def test_linear_blocks_minimise_theirs_against_a_grid(name):
    bcd, _, _ = moved(name)
    problem, samples = bcd.problem, bcd.samples
    for index in range(len(NETS[name].stages)):
        with torch.no_grad():
            reached = problem.chain.linear(index, samples.activations)
            new = linear_step(problem, samples, index, reached)
        old, wanted = samples.linear[index], samples.activations[index + 1]
        alpha = PENALTIES["alpha"] if index < problem.chain.last else 0.0
        activation = problem.chain.blocks[index].activation

        def cost(u, terms=(old, wanted, reached, alpha), s=activation):
            o, w, r, a = terms
            gap = PENALTIES["gamma"] * (w - s.apply(u)) ** 2 + PENALTIES["rho"] * (u - r) ** 2
            return gap + a * (u - o) ** 2

        best = cost(new)
        for point in torch.linspace(-6, 6, 601, dtype=torch.float64).tolist():
            assert (best <= cost(torch.full_like(new, point)) + 1e-12).all()
        assert (best <= cost(old) + 1e-12).all()


@pytest.mark.parametrize("name", NETS)
def test_weight_and_bias_minimise_their_block_together(name):
    bcd, _, _ = moved(name)
    problem, samples = bcd.problem, bcd.samples
    for index, block in enumerate(problem.chain.blocks):
        start = [p.detach().clone() for p in block.operator.module.parameters()]
        with torch.no_grad():
            moments = Moments.empty(block.weight, block.bias, None)
            missing = samples.linear[index] - problem.chain.linear(index, samples.activations)
            moments.add(block.operator.features(samples.activations[index]), block.operator.rows(missing))
            weight_step(problem, index, moments.finish(), bcd.points.get(index))
        new = torch.cat([p.detach().flatten() for p in block.operator.module.parameters()])
        old = torch.cat([p.flatten() for p in start])

        def cost(z, module=block.operator.module, o=old):
            torch.nn.utils.vector_to_parameters(z, module.parameters())
            return float(full(bcd, samples) + 0.5 * PENALTIES["alpha"] * (z - o).square().sum())

        assert_minimises(cost, new, old)
        torch.nn.utils.vector_to_parameters(new, block.operator.module.parameters())


def full(bcd, samples):
    with torch.no_grad():
        return ours(bcd.problem, samples, bcd.points).total


@pytest.mark.parametrize("weight_set", SETS, ids=lambda one: type(one).__name__)
def test_copies_lower_the_gap_and_its_proximal_term(weight_set):
    bcd, _, _ = moved("perceptron", sets=(weight_set, weight_set))
    tau, alpha = PENALTIES["tau"], PENALTIES["alpha"]
    for index, old in bcd.points.items():
        weight = bcd.problem.chain.blocks[index].weight.detach()
        new = PenaltyMode().point(weight_set, weight, old, bcd.problem.penalties)
        after = tau * (weight - new.dense).square().sum() + alpha * (new.dense - old.dense).square().sum()
        assert after <= tau * (weight - old.dense).square().sum() * (1 + 1e-12)


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: type(loss).__name__)
@pytest.mark.parametrize("name", NETS)
def test_a_sweep_descends_by_the_square_of_the_move(name, loss):
    bcd, x, y = descent(name, loss=loss)
    share = 0.5 * min(PENALTIES["alpha"], PENALTIES["gamma"])
    for _ in range(15):
        before, start = float(bcd.objective().total), blocks_of(bcd)
        bcd.sweep(x, y)
        move = sum(float((new - old).square().sum()) for new, old in zip(blocks_of(bcd), start, strict=True))
        assert float(bcd.objective().total) <= (before - share * move) * (1 + 1e-12) + 1e-14


def blocks_of(bcd):
    """All blocks of F in one list, copied."""
    samples = bcd.samples
    found = [*samples.activations[1:], *samples.linear, *bcd.model.parameters()]
    return [block.detach().clone() for block in (*found, *(p.dense for p in bcd.points.values()))]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("weight_set", SETS, ids=lambda one: type(one).__name__)
def test_the_objective_never_rises(weight_set, dtype):
    bcd, x, y = descent("perceptron", sets=(weight_set, weight_set), dtype=dtype, samples=200)
    tolerance = 1e-12 if dtype == torch.float64 else 1e-6
    last = float(bcd.objective().total)
    for _ in range(60):
        bcd.sweep(x, y)
        now = float(bcd.objective().total)
        assert now <= last * (1 + tolerance)
        last = now


@pytest.mark.parametrize("name", NETS)
def test_the_objective_is_the_one_that_is_written_out(name):
    bcd, x, y = moved(name)
    net = NETS[name]
    layers = [bcd.model.get_submodule(stage.layer) for stage in net.stages]
    blocks = Blocks(
        list(bcd.samples.activations), list(bcd.samples.linear), [layer.weight for layer in layers],
        [layer.bias for layer in layers], {index: point.dense for index, point in bcd.points.items()},
    )  # fmt: skip
    target = torch.nn.functional.one_hot(y, 3).double()
    loss = lambda v: 0.5 * (v - target).square().sum()  # noqa: E731
    weights = {name: PENALTIES[name] for name in ("rho", "gamma", "tau")}
    literal = objective(net, bcd.model, blocks, loss, **weights)
    torch.testing.assert_close(bcd.objective().total, literal.detach(), rtol=1e-12, atol=1e-12)
    assert x is bcd.samples.activations[0]


@pytest.mark.parametrize("loss", [Squared(), CrossEntropy()], ids=lambda loss: type(loss).__name__)
@pytest.mark.parametrize("name", NETS)
def test_the_residual_is_the_gradient_of_the_objective(name, loss):
    bcd, _, _ = moved(name, loss=loss)
    samples = bcd.samples
    activations = tuple(v.clone().requires_grad_() for v in samples.activations[1:])
    linear = tuple(u.clone().requires_grad_() for u in samples.linear)
    traced = Samples((samples.activations[0], *activations), linear, samples.target)
    parameters = list(bcd.model.parameters())
    gradients = torch.autograd.grad(ours(bcd.problem, traced, bcd.points).total, [*activations, *linear, *parameters])
    away = [torch.ones_like(g, dtype=torch.bool) for g in gradients]
    for number, u in enumerate(linear):
        away[len(activations) + number] = u != 0
    square = sum(float(g[keep].square().sum()) for g, keep in zip(gradients, away, strict=True))
    for index, point in bcd.points.items():
        gap = PENALTIES["tau"] * (bcd.problem.chain.blocks[index].weight.detach() - point.dense)
        square += float(bcd.problem.sets[index].tangent(point, gap).square().sum())
    kinks = sum(float(at_the_kink(bcd, index)) for index in range(len(linear)))
    found = float(stationarity(bcd.problem, samples, bcd.points))
    assert found == pytest.approx(square + kinks, rel=1e-9)


def at_the_kink(bcd, index):
    """The least subgradients at U = 0, entry by entry, from the one-sided derivatives of the two terms."""
    problem, samples = bcd.problem, bcd.samples
    slope = problem.chain.blocks[index].activation
    with torch.no_grad():
        reached = problem.chain.linear(index, samples.activations)
    u, v = samples.linear[index], samples.activations[index + 1]
    total = 0.0
    for r, value in zip(reached[u == 0].tolist(), v[u == 0].tolist(), strict=True):
        right = -PENALTIES["rho"] * r - PENALTIES["gamma"] * value
        left = -PENALTIES["rho"] * r - PENALTIES["gamma"] * slope.slope * value
        between = value < 0 and min(left, right) < 0 < max(left, right)
        total += 0.0 if between else min(left**2, right**2)
    return total


def test_the_mean_squared_residual_falls_as_one_over_k():
    bcd, x, y = descent("perceptron", samples=100)
    total, scaled = 0.0, {}
    for k in range(1, 121):
        bcd.sweep(x, y)
        total += bcd.residual() ** 2  # k times the mean of the first k
        scaled[k] = total
    assert scaled[120] <= 1.2 * scaled[30]
    assert bcd.residual() ** 2 < scaled[120] / 120


@pytest.mark.parametrize("name", ["perceptron", "residual", "images", "residual images"])
def test_the_chunk_changes_rounding_only(name):
    runs = []
    for chunk in (1, 5, 12, 1000):
        bcd, x, y = descent(name, chunk=chunk)
        for _ in range(4):
            bcd.sweep(x, y)
        runs.append(blocks_of(bcd))
    for run in runs[1:]:
        for one, other in zip(run, runs[0], strict=True):
            torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-10)


def test_a_resumed_run_is_the_uninterrupted_one(tmp_path):
    whole, x, y = descent("perceptron", sets=(SparseSet(0.4), TensorTrainSet(EqualRanks(2))))
    whole.fit(x, y, sweeps=7)
    first, x, y = descent("perceptron", sets=(SparseSet(0.4), TensorTrainSet(EqualRanks(2))))
    first.fit(x, y, sweeps=3)
    torch.save({"model": first.model.state_dict(), "bcd": first.state_dict()}, tmp_path / "run.pt")
    saved = torch.load(tmp_path / "run.pt", weights_only=True)
    second, x, y = descent("perceptron", sets=(SparseSet(0.4), TensorTrainSet(EqualRanks(2))))
    second.model.load_state_dict(saved["model"])
    second.load_state_dict(saved["bcd"], x, y)
    assert second.done == 3
    second.fit(x, y, sweeps=7)
    for one, other in zip(blocks_of(second), blocks_of(whole), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("name", ["linear inside", "residual", "images"])
def test_what_a_sweep_leaves_to_the_next_is_what_the_layers_give(name):
    bcd, _, _ = moved(name)
    known = bcd.state_dict()["reached"]
    assert known
    for index, block in enumerate(bcd.problem.chain.blocks):
        if block.name in known:
            with torch.no_grad():
                expected = block.operator.apply(bcd.samples.activations[index], block.weight, block.bias)
            torch.testing.assert_close(known[block.name][0], expected, rtol=1e-10, atol=1e-12)


def changed_weights(bcd, x, y):  # noqa: ARG001  (as the other)
    with torch.no_grad():
        for parameter in bcd.model.parameters():
            parameter.mul_(1.5)


def changed_activations(bcd, x, y):  # noqa: ARG001  (as the other)
    bcd.synchronise()


@pytest.mark.parametrize("change", [changed_weights, changed_activations, lambda bcd, x, y: bcd.refit(x, y)])
@pytest.mark.parametrize("name", ["linear inside", "residual"])
def test_what_a_sweep_leaves_is_not_used_where_something_else_has_changed(name, change):
    one, x, y = moved(name)
    change(one, x, y)
    twin = copy.deepcopy(one)
    twin._known.reached.clear()
    one.sweep(x, y)
    twin.sweep(twin.samples.activations[0], y)
    for mine, other in zip(blocks_of(one), blocks_of(twin), strict=True):
        assert torch.equal(mine, other)


def test_a_resumed_run_has_what_the_sweep_before_left(tmp_path):
    whole, x, y = moved("residual")
    torch.save({"model": whole.model.state_dict(), "bcd": whole.state_dict()}, tmp_path / "run.pt")
    saved = torch.load(tmp_path / "run.pt", weights_only=True)
    second, x, y = descent("residual")
    second.model.load_state_dict(saved["model"])
    second.load_state_dict(saved["bcd"], x, y)
    whole.sweep(whole.samples.activations[0], y)
    second.sweep(x, y)
    for one, other in zip(blocks_of(second), blocks_of(whole), strict=True):
        assert torch.equal(one, other)


def test_a_descent_can_be_copied():
    bcd, x, y = moved("images")
    twin = copy.deepcopy(bcd)
    bcd.sweep(x, y)
    twin.sweep(twin.samples.activations[0], y)
    for one, other in zip(blocks_of(bcd), blocks_of(twin), strict=True):
        assert torch.equal(one, other)


def test_hard_sweeps_leave_no_gap():
    bcd, x, y = descent("perceptron", mode=HardMode())
    bcd.sweep(x, y)
    assert bcd.gap() == 0.0
    for index, point in bcd.points.items():
        assert torch.equal(bcd.problem.chain.blocks[index].weight.detach(), point.dense)


def test_the_last_sweeps_of_a_course_can_be_hard():
    bcd, x, y = descent("perceptron")
    gaps = []
    bcd.fit(x, y, sweeps=5, course=Course(hard_last=2), on_sweep=lambda progress: gaps.append(progress.gap))
    assert [gap == 0.0 for gap in gaps] == [False, False, False, True, True]


@pytest.mark.slow
@pytest.mark.parametrize("alpha", [0.05, 1e-3])
def test_single_precision_is_as_stable_as_double(alpha):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(1500, 100, generator=generator, dtype=torch.float64)
    y = (x @ torch.randn(100, 6, generator=generator, dtype=torch.float64)).argmax(1)
    ends = []
    for dtype in (torch.float32, torch.float64):
        torch.manual_seed(0)
        layers = nn.Linear(100, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 6)
        bcd = BlockCoordinateDescent(
            nn.Sequential(*layers).to(dtype), {"0": SparseSet(0.1), "2": SparseSet(0.1)}, tau=0.1, alpha=alpha
        )
        values = []
        inputs = x.to(dtype)
        for _ in range(100):
            bcd.sweep(inputs, y)
            values.append(float(bcd.objective().total))
        assert all(after <= before * (1 + 1e-7) for before, after in pairwise(values))
        ends.append((values[-1], bcd.residual()))
    assert ends[0] == pytest.approx(ends[1], rel=1e-2)
