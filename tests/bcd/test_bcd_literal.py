"""The benchmark's literal formulas are the same method: only what a sweep costs differs."""

import sys
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


@pytest.mark.parametrize("workload", WORKLOADS[:2], ids=lambda workload: workload.name)
def test_a_sweep_costs_fewer_flops_than_the_published_one(workload):
    literal, bcd, x, y = both(workload.smaller(24))
    bcd.sweep(x, y)
    assert count(lambda: bcd.sweep(x, y)) < 0.75 * count(literal.sweep)


def test_flops_are_counted_by_their_formulas():
    a, b = torch.ones(3, 4), torch.ones(4, 5)
    assert count(lambda: a @ b) == 2 * 3 * 4 * 5
    assert count(lambda: torch.zeros(3, 5).addmm_(a, b)) == 2 * 3 * 4 * 5
    eye = torch.eye(6)
    assert count(lambda: torch.linalg.cholesky_ex(eye)) == 6**3 // 3
    assert count(lambda: torch.cholesky_solve(torch.ones(6, 2), eye)) == 2 * 6 * 6 * 2
    assert count(lambda: torch.linalg.inv(eye)) == 2 * 6**3


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
