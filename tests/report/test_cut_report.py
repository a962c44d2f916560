from __future__ import annotations

import json
import sys

import pytest
import torch
from torch import nn

from pliant.compress import FilterPruning, Global, LowRank, UnstructuredPruning, compress
from pliant.metrics import Latency
from pliant.models import create
from pliant.report.cut_plot import _gathered

COMPRESSORS = [FilterPruning(), LowRank(), UnstructuredPruning()]


def _report(compressor, fraction=0.5, model=None, example=None, **options):
    torch.manual_seed(0)
    model = create("cnn-4", num_classes=10, in_channels=1, image_size=8) if model is None else model
    example = torch.randn(2, 1, 8, 8) if example is None else example
    return compress(model, compressor, fraction, example=example, **options).report


@pytest.mark.parametrize("compressor", COMPRESSORS, ids=lambda c: type(c).__name__)
def test_the_rows_of_the_layers_add_up_to_the_totals_on_both_sides(compressor):
    report = _report(compressor)
    for side in ("before", "after"):
        whole = getattr(report, side)
        for name in ("parameters", "macs", "bytes", "activations"):
            assert sum(getattr(getattr(row, side), name) for row in report.layers()) == getattr(whole, name)
    assert (report.parameters, report.macs) == (report.predicted_parameters, report.predicted_macs)


def test_a_layer_replaced_by_two_is_one_row():
    report = _report(LowRank())
    rows = {row.name: row for row in report.layers()}
    assert {"features.conv2.0", "features.conv2.1"} <= set(report.after.layers)
    assert "features.conv2.0" not in rows
    parts = [report.after.layers[f"features.conv2.{index}"] for index in (0, 1)]
    assert rows["features.conv2"].after.parameters == sum(part.parameters for part in parts)
    assert rows["features.conv2"].after.macs == sum(part.macs for part in parts)
    assert rows["features.conv2"].after.macs < rows["features.conv2"].before.macs


def test_the_headline_says_what_was_removed():
    text = str(_report(FilterPruning())).splitlines()[0]
    assert text.startswith("FilterPruning: 72 of 144 atoms (50.0%) removed, asked for 50.0%: -74.2% parameters, -74.7%")


def test_where_nothing_got_smaller_the_headline_says_so_and_claims_nothing():
    report = _report(UnstructuredPruning())
    headline = str(report).splitlines()[0]
    assert "16,520 of 33,040 atoms are zero" in headline
    assert "but nothing got smaller: single zeros stay in a dense tensor" in headline
    assert "removed" not in headline
    assert report.zeros == report.removed == 16520
    assert not report.smaller


def test_a_decomposition_that_would_not_pay_is_not_called_a_success():
    report = _report(LowRank(), 0.2, nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2)), torch.randn(1, 8))
    assert "2 of 8 atoms are zero, asked for 20.0%, but nothing got smaller: rank 6 of 8" in str(report)


def test_zeros_in_layers_that_kept_their_size_are_told_apart():
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 2))
    report = _report(LowRank(), 0.3, model, torch.randn(1, 8))
    assert 0 < report.zeros <= report.removed
    if report.smaller:
        assert f"({report.zeros:,} of them are zeros in layers that kept their size)" in str(report)


@pytest.mark.parametrize(
    ("model", "fraction", "part"),
    [
        (nn.Sequential(nn.Linear(4, 2)), 0.5, "nothing was cut, asked for 50.0%: an output"),
        (nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)), 0.0, "nothing was cut, asked for 0.0%"),
        (nn.Sequential(nn.Flatten()), 0.5, "nothing was cut, asked for 50.0%: every atom stays"),
    ],
)
def test_a_cut_of_nothing_says_why(model, fraction, part):
    assert part in str(_report(FilterPruning(), fraction, model, torch.randn(1, 4))).splitlines()[0]


def test_latency_is_measured_on_both_sides_with_the_same_settings():
    report = _report(FilterPruning(scope=Global()), latency=Latency(threads=1, seconds=0.02))
    assert report.before.latency.threads == report.after.latency.threads == 1
    assert "latency before: " in str(report)
    assert "1 thread, float32, cpu, example 2x1x8x8" in str(report)
    assert _report(FilterPruning()).before.latency is None
    assert "latency" not in str(_report(FilterPruning()))


@pytest.mark.parametrize("compressor", COMPRESSORS, ids=lambda c: type(c).__name__)
def test_json_holds_everything_that_the_text_says(compressor):
    report = _report(compressor, latency=Latency(seconds=0.01))
    data = json.loads(report.to_json())
    assert data["schema"] == 2
    assert data["before"]["macs"] == report.dense_macs
    assert data["after"]["parameters"] == report.parameters
    assert data["after"]["latency"]["median"] > 0
    assert data["max_difference"] == report.max_difference
    assert sum(row["after"]["activations"] for row in data["layers"]) == data["after"]["activations"]
    assert data["left_dense"] == dict(report.left_dense)


def test_the_picture_is_drawn_for_many_layers_and_for_none(tmp_path):
    deep = nn.Sequential(*[layer for _ in range(70) for layer in (nn.Linear(4, 4), nn.ReLU())], nn.Linear(4, 2))
    report = _report(FilterPruning(), model=deep, example=torch.randn(1, 4))
    report.plot(str(tmp_path / "many.png"))
    gathered = _gathered([row for row in report.layers() if row.before.parameters])
    assert len(gathered) == 60
    assert gathered[-1].name == "12 smaller layers"
    assert sum(row.before.parameters for row in gathered) == report.before.parameters
    assert sum(row.after.macs for row in gathered) == report.after.macs
    _report(FilterPruning(), model=nn.Sequential(nn.Flatten()), example=torch.randn(1, 4)).plot(tmp_path / "none.png")
    for name in ("many.png", "none.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


def test_without_matplotlib_the_picture_names_the_extra(tmp_path, monkeypatch):
    report = _report(FilterPruning())
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    for name in [name for name in sys.modules if name.startswith(("matplotlib.", "pliant.report.cut_plot"))]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(ImportError, match=r"pip install 'pliant\[plot\]'"):
        report.plot(tmp_path / "report.png")
