"""What the benchmarks compare is the same thing, and what they count is what there is."""

import pytest
import torch
from benchmarks.contestants import ADAMW, SGD, VIEWS, Constrained, Contestant, Muon
from benchmarks.floor import Rates, Work, work_of, work_of_sgd
from benchmarks.literal import LiteralSFW, block_power, full_svd, gram
from benchmarks.memory import Allocations, state_bytes
from benchmarks.quality import Watched
from benchmarks.tables import percent, seconds, times
from benchmarks.timing import Effort, Timing, compare
from benchmarks.workloads import NETS, Drift

from pliant import SFW, Plan, spectral_k_support_ball

CPU = torch.device("cpu")


def toy():
    return NETS["toy"].build(CPU)


@pytest.mark.parametrize("view", VIEWS)
def test_the_literal_algorithm_takes_the_same_steps_as_sfw(view):
    ours, theirs = toy().double(), toy().double()
    optimizers = SFW(VIEWS[view](ours, k=0.1), lr=0.1, exact=True), LiteralSFW(VIEWS[view](theirs, k=0.1), lr=0.1)
    drift = Drift.of(ours, CPU)
    for _ in range(3):
        drift.move()
        for model in (ours, theirs):
            Contestant(list(model.parameters()), optimizers[0]).give([g.double() for g in drift.gradients])
        for optimizer in optimizers:
            optimizer.step()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("shape", [(6, 9), (9, 6)])
def test_the_literal_oracles_agree_where_they_are_exact(shape):
    matrix = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(gram(matrix, 2), full_svd(matrix, 2))
    low_rank = full_svd(matrix, 2)
    torch.manual_seed(0)
    error = torch.linalg.vector_norm(block_power(low_rank.float(), 2) - low_rank)
    assert error < 0.05 * torch.linalg.vector_norm(low_rank)


def test_networks_are_the_same_every_time_and_leave_the_random_state_alone():
    before = torch.get_rng_state()
    first, second = toy(), toy()
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("decay", [0.0, 1.0])
def test_gradients_drift_by_nine_tenths(decay):
    drift = Drift([(50, 60)], CPU, decay=decay)
    for _ in range(20):
        drift.move()
    before = drift.gradients[0].flatten().clone()
    drift.move()
    cosine = torch.nn.functional.cosine_similarity(before, drift.gradients[0].flatten(), dim=0)
    assert 0.85 < float(cosine) < 0.95


def test_all_contestants_move_on_copies_and_share_the_gradients():
    model = toy()
    start = [p.detach().clone() for p in model.parameters()]
    drift = Drift.of(model, CPU)
    for entry in (SGD, ADAMW, Muon(), *(Constrained(name, plan) for name, plan in VIEWS.items())):
        contestant = entry.enter(model)
        contestant.give(drift.gradients)
        before = [None if p is None else p.detach().clone() for p in contestant.parameters]
        contestant.optimizer.step()
        pairs = [(p, old) for p, old in zip(contestant.parameters, before, strict=True) if p is not None]
        assert all(not torch.equal(p, old) for p, old in pairs), entry.name
        shared = {g.untyped_storage().data_ptr() for g in drift.gradients}
        assert all(p.grad.untyped_storage().data_ptr() in shared for p, _ in pairs)
    assert all(torch.equal(p, old) for p, old in zip(model.parameters(), start, strict=True))


def test_a_call_that_lasts_too_long_is_measured_once():
    calls = []
    effort = Effort(seconds=1e-5, rounds=3, patience=0.0)
    found = compare({"slow": lambda: calls.append(1)}, device=CPU, effort=effort)
    assert (len(calls), found["slow"].calls, found["slow"].iqr) == (2, 1, 0.0)


def test_new_gradients_come_before_every_round():
    moves = []
    effort = Effort(seconds=1e-5, rounds=3, patience=10.0)
    found = compare({"a": int, "b": int}, device=CPU, effort=effort, between=lambda: moves.append(1))
    assert len(moves) == 4
    assert {len(timing.rounds) for timing in found.values()} == {3}


def test_a_ratio_is_taken_round_by_round():
    # The machine is ten times slower in the last two rounds: the ratio does not notice.
    mine = Timing((2.0, 20.0, 20.0), 20.0, 0.0, 3)
    other = Timing((1.0, 10.0, 10.0), 10.0, 0.0, 3)
    assert mine.over(other) == 2.0
    assert Timing((20.0,), 20.0, 0.0, 1).over(other) == 2.0


def test_allocations_count_new_tensors_alone():
    x = torch.ones(100)
    with Allocations() as seen:
        x.add_(1.0)
        x.view(10, 10).mul_(2.0)
    assert (seen.total, seen.largest, seen.peak) == (0, 0, 0)
    with Allocations() as seen:
        for _ in range(3):
            (x + 1.0).mul_(2.0)
        y = x + 1.0
        z = y[:50] + 1.0
    assert (seen.total, seen.largest, seen.peak) == (4 * 400 + 200, 400, y.nbytes + z.nbytes)


def test_allocations_see_lists_of_tensors():
    parts = [torch.ones(10), torch.ones(20)]
    with Allocations() as seen:
        more = torch._foreach_add(parts, 1.0)
    assert seen.peak == sum(part.nbytes for part in more)


def test_state_bytes_are_those_of_the_buffers():
    model = toy()
    weights = sum(p.nbytes for p in model.parameters())
    for entry, buffers in [(SGD, 1), (ADAMW, 2)]:
        contestant = entry.enter(model)
        contestant.give(Drift.of(model, CPU).gradients)
        contestant.optimizer.step()
        steps = 4 * len(contestant.parameters) if entry is ADAMW else 0
        assert state_bytes(contestant.optimizer) == buffers * weights + steps


def test_the_floor_counts_streams_and_multiplications():
    model = toy()
    plan = Plan.for_low_rank(model, k=1)
    held = [group for group in plan if group.options()["region"] is not None]
    matrices = [slot.parameter for group in held for slot in group.slots if slot.parameter.ndim > 1]
    weights = sum(p.nbytes for p in model.parameters())
    bound = sum(slot.parameter.nbytes for group in held for slot in group.slots)
    assert work_of(plan) == Work(5 * weights + 2 * bound, 6 * sum(p.numel() for p in matrices))
    assert work_of_sgd(plan) == Work(5 * weights, 0)
    assert Rates(moved=10.0, operations=100.0).seconds(Work(20.0, 300.0)) == 5.0


@pytest.mark.parametrize("share", [1.0, 0.9])
def test_quality_is_read_off_the_movement_of_the_weights(share):
    generator = torch.Generator().manual_seed(0)
    momentum, theta = (torch.randn(6, 9, generator=generator) for _ in range(2))
    ball = spectral_k_support_ball(2, 3.0)
    vertex = share * ball.lmo(momentum)
    layer = Watched("layer", "6x9", ball, torch.lerp(theta, vertex, 0.01))
    layer.judge(theta.double(), float(torch.tensor(0.01)), momentum)
    assert layer.qualities == [pytest.approx(share, abs=1e-5)]


def test_numbers_are_written_with_their_units():
    assert [seconds(value) for value in (1.234, 0.0456, 0.000789, 0.1234)] == ["1.23 s", "45.6 ms", "789 µs", "123 ms"]
    assert [times(2.345), times(23.45)] == ["2.35x", "23x"]
    assert [percent(0.0345), percent(0.345), percent(1.0)] == ["3.5 %", "34 %", "100 %"]
