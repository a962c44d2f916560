"""Latency as a budget: tables are measured, kept and interpolated; the target holds for what they predict."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from budgeted import build
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from pliant.compress import FilterPruning, LowRank
from pliant.compress.both import Both
from pliant.compress.budgets import BudgetError, ByFraction, LatencyTable, LatencyTarget, measure_latencies
from pliant.compress.budgets.grid import Grid
from pliant.compress.budgets.latency_table import LayerTimes
from pliant.compress.factor import rank_of, widths
from pliant.structure.matricise import PRUNABLE, Scheme

COMPRESSORS = {"filters": FilterPruning(), "rank": LowRank(), "both": Both()}
SIZES = st.lists(st.integers(1, 40), min_size=1, max_size=4, unique=True).map(sorted).map(tuple)


def invented(model):
    """A table in which a layer takes as many microseconds as it has pairs of channels, and everything else 50."""
    layers = {}
    for name, module in model.named_modules():
        if type(module) in PRUNABLE:
            outputs, inputs, groups = widths(module)
            rank = max(2, rank_of(module))
            if groups > 1:
                layers[name] = LayerTimes(True, line(groups, 1), line(groups, rank), line(groups, rank))
            else:
                layers[name] = LayerTimes(False, line(outputs, inputs), line(inputs, rank), line(outputs, rank))
    return LatencyTable(layers, 50e-6, 1, "float64", "cpu", ((2, 3, 16, 16),))


def line(rows, columns):
    """A grid of products, exact between its corners because they are linear in each size."""
    sizes = tuple(sorted({1, rows})), tuple(sorted({1, columns}))
    return Grid(*sizes, tuple(tuple(1e-6 * row * column for column in sizes[1]) for row in sizes[0]))


@pytest.mark.parametrize("allocation", [None, ByFraction()], ids=["greedy", "fraction"])
@pytest.mark.parametrize("compressor", COMPRESSORS.values(), ids=COMPRESSORS)
@pytest.mark.parametrize("name", ["resnet", "separable"])
def test_the_realised_model_is_predicted_to_keep_to_the_target(name, compressor, allocation):
    model, example = build(name)
    table = invented(model)
    target = LatencyTarget(0.7, table) if allocation is None else LatencyTarget(0.7, table, allocation)
    cut = compressor.select(model, budget=target, example=example)
    predicted = table.predict(compressor.realise(model, cut))
    assert 0.6 * table.predict(model) < predicted <= 0.7 * table.predict(model)


def test_no_channel_more_would_keep_to_the_target():
    model, example = build("resnet")
    table = invented(model)
    cut = FilterPruning().select(model, budget=LatencyTarget(0.6, table), example=example)
    for knob in FilterPruning().survey(model, example).orders:
        kept = cut.listed(knob.group.name)
        if len(kept) < knob.group.atoms:
            following = [atom for atom in knob.order if atom not in kept][-1]
            more = replace(cut, kept={**cut.kept, knob.group.name: tuple(sorted((*kept, following)))})
            assert table.predict(FilterPruning().realise(model, more)) > 0.6 * table.predict(model)


def test_a_whole_number_is_microseconds():
    model, example = build("resnet")
    table = invented(model)
    limit = int(0.7e6 * table.predict(model))
    cut = FilterPruning().select(model, budget=LatencyTarget(limit, table), example=example)
    assert table.predict(FilterPruning().realise(model, cut)) <= 1e-6 * limit


def test_a_table_is_measured_and_survives_json():
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=2), nn.ReLU(), nn.ConvTranspose2d(8, 6, 2),
        nn.Flatten(), nn.Linear(6 * 25, 5),
    )  # fmt: skip
    example = torch.randn(2, 3, 8, 8)
    state = torch.get_rng_state()
    table = measure_latencies(model, example, threads=1, seconds=1e-4, shares=(0.5, 1.0))
    assert torch.equal(state, torch.get_rng_state())
    assert LatencyTable.from_json(table.to_json()) == table
    assert set(table.layers) == {"0", "2", "4", "6"}
    assert (table.threads, table.dtype, table.device, table.shapes) == (1, "float32", "cpu", ((2, 3, 8, 8),))
    assert table.layers["2"].grouped
    assert table.layers["0"].whole.rows == (4, 8)
    assert all(seconds > 0 for times in table.layers.values() for row in times.whole.seconds for seconds in row)
    cut = LowRank().select(model, 0.7, example=example)
    assert table.rest < table.predict(LowRank().realise(model, cut))


def test_a_table_without_ranks_or_of_another_model_is_refused():
    model, example = build("resnet")
    table = invented(model)
    short = replace(table, layers={name: LayerTimes(t.grouped, t.whole) for name, t in table.layers.items()})
    with pytest.raises(BudgetError, match="ranks=True"):
        LowRank().select(model, budget=LatencyTarget(0.7, short), example=example)
    with pytest.raises(BudgetError, match="must know the layer"):
        FilterPruning().select(model, budget=LatencyTarget(0.7, replace(table, layers={})), example=example)


def test_a_table_of_other_two_layers_is_refused():
    model, example = build("resnet")
    spatial = LowRank(scheme=Scheme.SPATIAL)
    table = invented(model)
    with pytest.raises(BudgetError, match=r"measure it with ranks=True, scheme=Scheme\.SPATIAL"):
        spatial.select(model, budget=LatencyTarget(0.7, table), example=example)
    FilterPruning().select(model, budget=LatencyTarget(0.7, table), example=example)
    cut = spatial.select(model, 0.8, example=example)
    with pytest.raises(BudgetError, match=r"by Scheme\.CHANNEL alone"):
        table.predict(spatial.realise(model, cut))
    flat = nn.Sequential(nn.Linear(30, 30), nn.ReLU(), nn.Linear(30, 2)).double()
    lines = torch.randn(2, 30, dtype=torch.float64)
    assert spatial.select(flat, budget=LatencyTarget(0.9, invented(flat)), example=lines).reduced()
    with pytest.raises(ValueError, match="scheme must be one of"):
        measure_latencies(model, example, scheme="spatial")


@pytest.mark.slow
def test_a_table_of_convolutions_along_one_axis_each_is_measured_and_met():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 64, 3, padding=1)).eval()
    example = torch.randn(1, 3, 24, 24)
    spatial = LowRank(scheme=Scheme.SPATIAL)
    table = measure_latencies(model, example, scheme=Scheme.SPATIAL, seconds=1e-3)
    assert LatencyTable.from_json(table.to_json()) == table
    whole = table.predict(model)
    fastest = table.predict(spatial.realise(model, spatial.select(model, 0.95, example=example))) / whole
    assert fastest < 1  # two layers of a few channels each are faster than one of 64
    target = (1 + fastest) / 2  # halfway, whatever this machine is good at
    cut = spatial.select(model, budget=LatencyTarget(target, table), example=example)
    assert table.predict(spatial.realise(model, cut)) <= target * whole * (1 + 1e-9)


@given(rows=SIZES, columns=SIZES, data=st.data())
def test_a_grid_is_bilinear_between_its_points(rows, columns, data):
    slope, level = data.draw(st.integers(0, 5)), data.draw(st.integers(0, 5))
    grid = Grid(rows, columns, tuple(tuple(float(slope * r * c + level + r) for c in columns) for r in rows))
    row = data.draw(st.integers(rows[0], rows[-1]))
    column = data.draw(st.integers(columns[0], columns[-1]))
    assert grid.at(row, column) == pytest.approx(slope * row * column + level + row)
    many = np.arange(rows[0], rows[-1] + 1)
    assert grid.at(many, column) == pytest.approx(slope * many * column + level + many)


def test_noise_never_makes_more_work_faster():
    grid = Grid((1, 2, 3), (4,), ((2.0,), (5.0,), (3.0,)))
    assert grid.at(np.array([1, 2, 3, 9]), 4).tolist() == [2.0, 5.0, 5.0, 5.0]


@pytest.mark.parametrize(
    "grid",
    [((), (1,), ()), ((1, 1), (1,), ((1.0,), (1.0,))), ((0,), (1,), ((1.0,),)), ((1,), (1,), ((-1.0,),)),
     ((1,), (1,), ((float("nan"),),)), ((1,), (1,), ()), ((1,), (1, 2), ((1.0,),))],
)  # fmt: skip
def test_a_grid_that_is_none_is_refused(grid):
    with pytest.raises(ValueError, match="grid"):
        Grid(*grid)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"schema": 2}', '{"schema": 1}', "[" * 100_000, "1e999"])
def test_what_is_no_table_is_refused(text):
    with pytest.raises(BudgetError, match="latency table"):
        LatencyTable.from_json(text)


def test_a_damaged_table_is_refused():
    data = json.loads(invented(build("separable")[0]).to_json())
    name = next(iter(data["layers"]))
    for damage in ({"layers": {name: {}}}, {"layers": {name: 3}}, {"shapes": 3}, {"more": 1}):
        with pytest.raises(BudgetError, match="latency table"):
            LatencyTable.from_json(json.dumps(data | damage))
    data["layers"][name]["whole"]["rows"] = ["a"]
    with pytest.raises(BudgetError, match="latency table"):
        LatencyTable.from_json(json.dumps(data))
