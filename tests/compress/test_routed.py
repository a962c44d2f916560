"""Models whose work depends on their data: other weights send other rows to their layers."""

from __future__ import annotations

import logging

import pytest
import torch
from routed import build

from pliant.compress import (
    Both,
    FilterPruning,
    Layers,
    LowRank,
    Macs,
    TensorTrain,
    UnstructuredPruning,
    closest,
    compress,
    reconstruct,
    sweep,
)
from pliant.metrics import count_macs
from pliant.testing import check_compressor

FILTERS = FilterPruning(layers=Layers.ALL)
BUDGETED = {"filters": FILTERS, "rank": LowRank(), "both": Both(FILTERS), "train": TensorTrain()}


@pytest.mark.parametrize("compressor", [*BUDGETED.values(), UnstructuredPruning()], ids=lambda c: type(c).__name__)
def test_the_laws_hold_predictions_among_them(compressor):
    model, example = build(1)
    check_compressor(compressor, model, example, fractions=(0.5,))


@pytest.mark.parametrize("name", BUDGETED)
@pytest.mark.parametrize("seed", [1, 2])
def test_the_counted_work_keeps_to_the_budget(name, seed):
    model, example = build(seed)
    done = compress(model, BUDGETED[name], macs=0.6, example=example)
    assert done.report.macs == count_macs(done.model, example) == done.cut.macs == done.report.budget.reached
    assert 0.45 * done.report.dense_macs < done.report.macs <= done.report.budget.limit
    assert done.report.budget == done.cut.budget


def test_a_sweep_has_what_is_counted():
    model, example = build(1)
    for row in sweep(model, LowRank(), [0.4, 0.5], example=example, evaluate=lambda _: 0.0, budget=Macs):
        cut = LowRank().select(model, budget=Macs(1.0 - row.fraction), example=example)
        assert row.macs == count_macs(LowRank().realise(model, cut), example) <= cut.budget.limit


def test_where_a_repair_sends_more_rows_the_report_has_them_and_a_warning_is_logged(caplog):
    model, example = build(0)
    batches = [torch.randn(16, 6, 8) for _ in range(2)]
    with caplog.at_level(logging.WARNING, "pliant.compress.compressed"):
        done = compress(model, LowRank(), macs=0.5, example=example, repair=batches)
    report = done.report
    assert report.budget.reached == report.macs == count_macs(done.model, example) > report.budget.limit
    assert not report.budget.met
    assert f"reached {report.macs:,}: over the limit)" in str(report).splitlines()[0]
    assert f"MACs predicted before the repair: {done.cut.macs:,}" in str(report)
    assert "the work of this model depends on its data" in caplog.text


def test_a_repair_that_keeps_to_the_budget_is_told_without_a_warning(caplog):
    model, example = build(1)
    batches = [torch.randn(16, 6, 8) for _ in range(2)]
    report = compress(model, LowRank(), macs=0.6, example=example, repair=batches).report
    assert report.budget.met
    assert not caplog.records
    assert "predicted before" not in str(report)


@pytest.mark.parametrize("seed", [0, 2])
def test_layers_that_read_other_rows_stay_as_they_were_cut_by_name(seed, caplog):
    model, example = build(seed)
    batches = [torch.randn(16, 6, 8) for _ in range(2)]
    cut = LowRank().select(model, 0.6, example=example)
    truncated = LowRank().truncate(model, cut)
    fitted = reconstruct(truncated, model, cut, batches)
    named = [record.getMessage().rpartition(": ")[2].split(", ") for record in caplog.records]
    assert len(named) == 1
    assert {name.rpartition(".")[0] for name in named[0]} <= {f"experts.{number}" for number in range(4)}
    for name in named[0]:
        assert torch.equal(fitted.get_submodule(name).weight, truncated.get_submodule(name).weight)
    assert not torch.equal(fitted.head.weight, truncated.head.weight)
    assert _error(model, fitted, batches) < _error(model, truncated, batches)


def test_layers_that_read_the_same_rows_are_fitted_without_a_word(caplog):
    model, example = build(0)
    batches = [torch.randn(16, 6, 8) for _ in range(2)]
    hidden = FilterPruning(layers=Layers.ALL, ignore=("stem",))  # what the gate reads stays
    cut = hidden.select(model, 0.6, example=example)
    truncated = hidden.truncate(model, cut)
    fitted = reconstruct(truncated, model, cut, batches)
    assert not caplog.records
    assert all(not torch.equal(fitted.experts[n][2].weight, truncated.experts[n][2].weight) for n in range(4))
    assert _error(model, fitted, batches) < _error(model, truncated, batches)


def _error(model, other, batches):
    with torch.no_grad():
        return sum(float((model(batch) - other(batch)).square().mean()) for batch in batches)


def test_the_closest_cut_of_such_a_model_is_found():
    model, example = build(1)
    batches = [torch.randn(16, 6, 8) for _ in range(2)]
    assert closest([LowRank(), FILTERS], model, batches, 0.5, example=example) in (LowRank(), FILTERS)
    done = compress(model, FILTERS, 0.5, example=example, reconstruct=batches)
    assert done.report.reconstructed
    assert done.report.relative_difference < 1e-5
