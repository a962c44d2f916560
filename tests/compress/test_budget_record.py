"""A cut says which budget it was made for, and what came of it."""

from __future__ import annotations

import json

import pytest
from budgeted import build

from pliant.compress import (
    Both,
    BudgetRecord,
    ByFraction,
    Cut,
    CutError,
    FilterPruning,
    LatencyTarget,
    LowRank,
    Macs,
    Params,
    compress,
    load,
    measure_latencies,
    read_cut,
    save,
)
from pliant.metrics.size import size

COMPRESSORS = {"filters": FilterPruning(), "rank": LowRank(), "both": Both()}


def test_budgets_are_told_as_they_are_asked_for():
    assert [str(budget) for budget in (Macs(0.6), Params(2_000, ByFraction()))] == ["Macs(0.6)", "Params(2000)"]


@pytest.mark.parametrize("name", COMPRESSORS)
@pytest.mark.parametrize("budget", [Macs(0.6), Macs(0.6, ByFraction()), Params(0.7), Params(2_000)], ids=repr)
def test_what_was_asked_and_reached_is_what_is_counted(name, budget):
    model, example = build("resnet")
    compressor = COMPRESSORS[name]
    cut = compressor.select(model, budget=budget, example=example)
    sizes = [size(one, example) for one in (model, compressor.realise(model, cut))]
    dense, reached = ((s.macs if isinstance(budget, Macs) else s.parameters) for s in sizes)
    asked = (type(budget).__name__, budget.target, type(budget.allocation).__name__)
    assert (cut.budget.budget, cut.budget.target, cut.budget.allocation) == asked
    assert type(cut.budget.target) is type(budget.target)
    assert (cut.budget.dense, cut.budget.reached) == (dense, reached)
    assert cut.budget.reached <= cut.budget.limit == pytest.approx(budget.limit(dense))
    assert Cut.from_json(cut.to_json()) == cut


def test_times_are_recorded_in_seconds():
    model, example = build("resnet")
    table = measure_latencies(model, example, threads=1, seconds=1e-4, shares=(0.5, 1.0))
    cut = FilterPruning().select(model, budget=LatencyTarget(10**9, table), example=example)
    assert (cut.budget.limit, cut.budget.target) == (1000, 10**9)
    assert cut.budget.reached == cut.budget.dense == pytest.approx(table.predict(model))


def test_a_fraction_is_no_budget():
    model, example = build("resnet")
    assert FilterPruning().select(model, 0.5, example=example).budget is None


def test_report_and_folder_know_it_too(tmp_path):
    model, example = build("resnet")
    done = compress(model, Both(), macs=0.6, example=example)
    assert done.report.budget == done.cut.budget
    record = json.loads(done.report.to_json())["budget"]
    assert (record["budget"], record["target"], record["reached"]) == ("Macs", 0.6, done.report.macs)
    limit, reached = f"{done.cut.budget.limit:,.0f}", f"{done.report.macs:,}"
    assert f"asked for Macs(0.6) (at most {limit}, reached {reached}): -" in str(done.report)
    save(done, tmp_path)
    assert read_cut(tmp_path) == done.cut
    load(tmp_path, lambda: build("resnet")[0])


@pytest.mark.parametrize("name", COMPRESSORS)
def test_cuts_of_the_schema_before_are_read_and_applied(name):
    model, example = build("resnet")
    cut = COMPRESSORS[name].select(model, 0.5, example=example)

    def older(data):
        assert data.pop("budget") is None
        return data | {"schema": 2} | ({"parts": [older(part) for part in data["parts"]]} if "parts" in data else {})

    again = Cut.from_json(json.dumps(older(json.loads(cut.to_json()))))
    assert again == cut
    COMPRESSORS[name].realise(model, again)


RECORD = BudgetRecord("Macs", 0.5, "Greedy", 10.5, 10, 21)


def test_a_record_reads_well_and_survives():
    assert BudgetRecord.from_plain(json.loads(json.dumps(RECORD.to_plain()))) == RECORD
    assert str(RECORD) == "Macs(0.5) (at most 10, reached 10)"
    assert str(BudgetRecord("LatencyTarget", 0.5, "Greedy", 1.5e-3, 1e-3, 3e-3)).endswith(
        "(at most 1.5 ms, reached 1 ms)"
    )


@pytest.mark.parametrize(
    "bad",
    [
        [],
        "Macs",
        {},
        RECORD.to_plain() | {"more": 1},
        RECORD.to_plain() | {"budget": 3},
        RECORD.to_plain() | {"allocation": None},
        *(RECORD.to_plain() | {name: value} for name in ("target", "limit", "reached", "dense")
          for value in (-1, True, "1", None, 10**400, [])),
    ],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("schema", [2, 3])
def test_hostile_records_are_refused(bad, schema):
    model, example = build("resnet")
    data = json.loads(LowRank().select(model, 0.0, example=example).to_json())
    with pytest.raises(CutError, match="budget"):
        Cut.from_json(json.dumps(data | {"budget": bad, "schema": schema}))
