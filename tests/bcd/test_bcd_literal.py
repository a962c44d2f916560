"""The benchmark's literal formulas are the same method: only what a sweep costs differs."""

import sys
from itertools import pairwise
from math import prod
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the benchmarks are no part of the installed package

from benchmarks.bcd import WEIGHTS, WORKLOADS, Sweeps, Workload, count
from benchmarks.bcd_literal import LiteralBCD
from benchmarks.bcd_residual import main as draw_residuals
from benchmarks.levels import TOY
from benchmarks.memory import Allocations
from benchmarks.section import Bench

from pliant.bcd import BlockCoordinateDescent, PenaltyMode
from pliant.sets import SparseSet

OPTIONS = {"rho": WEIGHTS.rho, "gamma": WEIGHTS.gamma, "tau": WEIGHTS.tau, "alpha": WEIGHTS.alpha}


def both(workload):
    x, y = workload.data()
    sets = workload.compressed()
    model = workload.model().double()
    literal = LiteralBCD(workload.model().double(), sets, x.double(), y, WEIGHTS)
    names = [name for name, layer in model.named_modules() if list(layer.parameters(recurse=False))]
    named = {names[index]: one for index, one in sets.items()}
    mode = PenaltyMode(proximal=False)  # as published
    return literal, BlockCoordinateDescent(model, named, mode=mode, chunk=50, **OPTIONS), x.double(), y


@pytest.mark.parametrize("workload", WORKLOADS[:2], ids=lambda workload: workload.name)
def test_the_published_formulas_are_these_sweeps(workload):
    literal, bcd, x, y = both(workload.smaller(64))
    for _ in range(3):
        value = literal.sweep()
        bcd.sweep(x, y)
        assert value == pytest.approx(float(bcd.objective().total), rel=1e-7)
    for block, weight in zip(bcd.problem.chain.blocks, literal.w, strict=True):
        torch.testing.assert_close(block.weight.detach().flatten(1), weight, rtol=1e-6, atol=1e-8)
    assert literal.accuracy() == pytest.approx(bcd.accuracy(x, y))


def as_published(workload):
    """The flops of a published sweep, term by term: samples as columns, inverses, two passes of evaluation."""
    n, inputs, total = workload.samples, prod(workload.inputs), 0
    if workload.filters:
        places = n * prod((size - 3) // 2 + 1 for size in workload.inputs[1:])
        p, q = 9 * workload.inputs[0], workload.filters
        total += weights(places, p, q) + 6 * places * p * q
        inputs = places // n * q
    for p, q in pairwise((inputs, *workload.widths)):
        total += weights(n, p, q) + 6 * n * p * q  # W V for U, and in both passes of evaluation
        if workload.filters or p != inputs:
            total += 2 * p * p * q + 2 * p**3 + 2 * n * p * q + 2 * n * p * p  # the activations that it reads
    return total


def weights(n, p, q):
    return 2 * n * p * p + 2 * n * p * q + 2 * p**3 + 2 * p * p * q


PUBLISHED = {"MNIST convolution": 1.92e12, "HAR, four hidden layers": 0.357e12, "HAR, five hidden layers": 0.385e12}


@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda workload: workload.name)
def test_the_literal_sweep_costs_what_is_known_of_the_published_one(workload):
    assert as_published(workload) == pytest.approx(PUBLISHED.get(workload.name, 6.7e9), rel=0.01)
    small = workload.smaller(24)
    literal, *_ = both(small)
    assert count(literal.sweep) == pytest.approx(as_published(small), rel=1e-12)


# With four and five hidden layers of equal width there is no half: see the page on performance.
SHARES = {"MNIST convolution": 0.5, "HAR, four hidden layers": 0.65, "HAR, five hidden layers": 0.65}


@pytest.mark.parametrize("workload", WORKLOADS[:3], ids=lambda workload: workload.name)
def test_a_sweep_costs_fewer_flops_than_the_published_one(workload):
    literal, bcd, x, y = both(workload.smaller(8))
    bcd.sweep(x, y)
    assert count(lambda: bcd.sweep(x, y)) < SHARES[workload.name] * count(literal.sweep)


def test_a_sweep_of_the_published_pruning_problem_costs_half_the_flops():
    literal, bcd, x, y = both(WORKLOADS[3])
    bcd.sweep(x, y)
    assert count(lambda: bcd.sweep(x, y)) < 0.5 * count(literal.sweep)


def test_flops_are_counted_by_their_formulas():
    a, b = torch.ones(3, 4), torch.ones(4, 5)
    assert count(lambda: a @ b) == 2 * 3 * 4 * 5
    assert count(lambda: torch.zeros(3, 5).addmm_(a, b)) == 2 * 3 * 4 * 5
    eye = torch.eye(6)
    assert count(lambda: torch.linalg.cholesky_ex(eye)) == 6**3 // 3
    assert count(lambda: torch.cholesky_solve(torch.ones(6, 2), eye)) == 2 * 6 * 6 * 2
    assert count(lambda: torch.linalg.inv(eye)) == 2 * 6**3
    rows = torch.ones(5, 6)
    assert count(lambda: torch.linalg.solve_triangular(eye, rows, upper=False, left=False)) == 6 * 6 * 5


def test_memory_beside_the_blocks_is_that_of_a_chunk():
    peaks = {}
    for chunk in (50, 500, 4000):
        workload = Workload("memory", 4000, (1, 8, 8), (20, 3), filters=4)
        x, y = workload.data()
        bcd = BlockCoordinateDescent(workload.model(), {"3": SparseSet(0.1)}, chunk=chunk)
        bcd.sweep(x, y)
        with Allocations() as seen:
            bcd.sweep(x, y)
        peaks[chunk] = seen.peak
    assert peaks[50] < 0.2 * peaks[500] < 0.04 * peaks[4000]


def test_the_benchmark_runs_and_shows_its_rows(tmp_path):
    section = Sweeps()
    rows = section.run(Bench(TOY, torch.device("cpu"), tmp_path))
    assert [row["name"] for row in rows] == [workload.name for workload in WORKLOADS]
    assert section.show(rows).count("\n") == len(rows) + 1


def test_the_residuals_are_drawn(tmp_path):
    draw_residuals(["-o", str(tmp_path), "--quick", "--sweeps", "3"])
    assert {file.name for file in tmp_path.iterdir()} == {"residual.json", "residual.png"}
