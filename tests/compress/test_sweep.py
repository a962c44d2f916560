from __future__ import annotations

import copy
import dataclasses
import json

import pytest
import torch
from compressible import build
from torch import nn

from pliant.compress import (
    Both,
    BudgetError,
    FilterPruning,
    Layers,
    LowRank,
    Macs,
    Params,
    UnstructuredPruning,
    channel_choice,
    compress,
    sweep,
)
from pliant.compress.chooser import chooser
from pliant.compress.sweep import Cuts
from pliant.structure.channels import channel_graph

COMPRESSORS = [FilterPruning(), LowRank(), UnstructuredPruning()]


def _evaluate(example):
    return lambda model: model.eval()(example).square().sum().item()


@pytest.mark.parametrize("compressor", COMPRESSORS, ids=lambda c: type(c).__name__)
def test_one_row_per_fraction_and_an_untouched_model(compressor):
    model, example = build("plain")
    model.train()
    before = copy.deepcopy(model.state_dict())
    rows = sweep(model, compressor, (0.0, 0.5, 0.8), example=example, evaluate=_evaluate(example), calibrate=[example])
    assert model.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert [row.fraction for row in rows] == [0.0, 0.5, 0.8]
    assert rows[0].raw == _evaluate(example)(copy.deepcopy(model))
    assert rows[0].parameters == rows[0].dense_parameters
    assert all(row.recalibrated is not None and row.recalibrated != row.raw for row in rows)
    assert [row.parameters for row in rows] == sorted((row.parameters for row in rows), reverse=True)


@pytest.mark.parametrize("compressor", COMPRESSORS, ids=lambda c: type(c).__name__)
def test_truncated_and_realised_models_give_the_same_rows(compressor):
    model, example = build("plain")
    args = (model, compressor, (0.5,))
    (a,) = sweep(*args, example=example, evaluate=_evaluate(example), calibrate=[example])
    (b,) = sweep(*args, example=example, evaluate=_evaluate(example), calibrate=[example], realise=True)
    assert a.raw == pytest.approx(b.raw, rel=1e-9)
    assert a.recalibrated == pytest.approx(b.recalibrated, rel=1e-9)


def test_a_row_is_what_compress_gives():
    model, example = build("plain")
    (row,) = sweep(model, FilterPruning(), [0.5], example=example, evaluate=_evaluate(example))
    done = compress(model, FilterPruning(), 0.5, example=example)
    assert (row.parameters, row.macs) == (done.report.parameters, done.report.macs)
    assert row.raw == pytest.approx(_evaluate(example)(done.model), rel=1e-9)
    assert row.recalibrated is None


@pytest.mark.parametrize("compressor", [FilterPruning(), LowRank(), Both()], ids=lambda c: type(c).__name__)
@pytest.mark.parametrize("budget", [Macs, Params])
def test_over_budgets_a_row_is_what_compress_gives_for_that_budget(compressor, budget):
    model, example = build("residual")
    rows = sweep(model, compressor, (0.0, 0.5), example=example, evaluate=_evaluate(example), budget=budget)
    assert [row.fraction for row in rows] == [0.0, 0.5]
    assert (rows[0].macs, rows[0].parameters) == (rows[0].dense_macs, rows[0].dense_parameters)
    done = compress(model, compressor, budget=budget(0.5), example=example)
    assert (rows[1].macs, rows[1].parameters) == (done.report.macs, done.report.parameters)
    assert rows[1].raw == pytest.approx(_evaluate(example)(done.model), rel=1e-9)
    cost = {Macs: rows[1].macs / rows[1].dense_macs, Params: rows[1].parameters / rows[1].dense_parameters}
    assert 0.3 < cost[budget] <= 0.5


def test_a_share_that_no_budget_can_leave_is_named():
    model, example = build("plain")
    judge = {"example": example, "evaluate": _evaluate(example), "budget": Macs}
    with pytest.raises(BudgetError, match="at least"):
        sweep(model, FilterPruning(), [0.9999], **judge)
    with pytest.raises(ValueError, match="0 <= fraction < 1"):
        sweep(model, FilterPruning(), [1.5], **judge)


@pytest.mark.parametrize(
    "compressor", [FilterPruning(), LowRank(), Both(), UnstructuredPruning()], ids=lambda c: type(c).__name__
)
def test_what_is_found_once_gives_the_cuts_that_are_found_afresh(compressor):
    model, example = build("residual")
    choose = chooser(compressor, model, example)
    for fraction in (0.6, 0.0, 0.3, 0.6):
        assert choose.cut(fraction) == compressor.select(model, fraction, example=example)


def test_the_channels_of_a_model_are_analysed_once_for_all_fractions(monkeypatch):
    model, example = build("residual")
    runs = []
    monkeypatch.setattr(channel_choice, "channel_graph", lambda *args: runs.append(args) or channel_graph(*args))
    sweep(model, FilterPruning(), (0.1, 0.5, 0.9), example=example, evaluate=lambda _: 0.0)
    assert len(runs) == 1


def test_rows_come_one_by_one_and_a_bad_fraction_stops_where_it_is():
    model, example = build("plain")
    cuts = Cuts(model, FilterPruning(), example=example, evaluate=lambda _: 0.0)
    assert cuts.row(0.5).fraction == 0.5
    with pytest.raises(ValueError, match="fraction must be the share"):
        cuts.row(1.5)


def test_a_generator_cannot_calibrate_a_sweep():
    model, example = build("plain")
    with pytest.raises(ValueError, match="re-iterable"):
        sweep(model, LowRank(), [0.5], example=example, evaluate=_evaluate(example), calibrate=(x for x in [example]))


def test_the_report_reads_well():
    model, example = build("residual")
    text = str(compress(model, FilterPruning(), 0.5, example=example).report)
    for part in ("FilterPruning", "50.0%", "parameters", "MACs", "fc"):
        assert part in text


@pytest.mark.parametrize("compressor", [FilterPruning(), LowRank(), UnstructuredPruning()])
def test_a_compiled_model_is_refused_since_its_layers_call_no_hooks(compressor):
    model, example = build("plain")
    compiled = torch.compile(model, backend="eager")
    with pytest.raises(ValueError, match=r"must not be wrapped by torch\.compile, found '_orig_mod'"):
        sweep(compiled, compressor, [0.5], example=example, evaluate=lambda _: 0.0)
    wrapped = nn.Sequential(compiled)
    with pytest.raises(ValueError, match="'0' must not be wrapped"):
        compressor.select(wrapped, 0.5, example=example)


def test_a_model_without_a_layer_to_cut_is_named_in_the_log(caplog):
    model, example = nn.LSTM(4, 4), torch.randn(2, 3, 4)
    with caplog.at_level("WARNING"):
        sweep(model, FilterPruning(), [0.0, 0.5], example=example, evaluate=lambda _: 0.0)
    assert len(caplog.records) == 1
    assert "FilterPruning finds nothing to cut in this model" in caplog.text
    assert "weight_ih_l0: it meets a tensor of fixed width" in caplog.text


def test_a_class_in_place_of_a_compressor_is_refused():
    model, example = build("plain")
    with pytest.raises(TypeError, match="compressor must be a Compressor such as FilterPruning"):
        sweep(model, FilterPruning, [0.5], example=example, evaluate=lambda _: 0.0)


@pytest.mark.parametrize(
    ("wrong", "hint"), [(torch.zeros(1).numpy(), "ndarray: torch.as_tensor"), ("x", "found str"), (3, "found int")]
)
def test_what_no_model_is_called_with_is_no_example(wrong, hint):
    model, _ = build("plain")
    with pytest.raises(ValueError, match=f"a tensor, a sequence of positional arguments or a mapping.*{hint}"):
        sweep(model, FilterPruning(), [0.5], example=wrong, evaluate=lambda _: 0.0)


class Normed(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(16, 32), nn.BatchNorm1d(32), nn.Linear(32, 4)

    def forward(self, x):
        return self.last(self.norm(self.first(x)).relu())


@pytest.mark.parametrize("realise", [False, True])
def test_every_evaluation_has_a_model_of_its_own_which_it_may_change(realise):
    torch.manual_seed(0)
    model, x = Normed().eval(), torch.randn(32, 16)

    def spoil(cut_model):
        found = _evaluate(x)(cut_model)
        with torch.no_grad():
            cut_model.last.weight.zero_()
        return found

    def rows(evaluate):
        batches = {"calibrate": [x], "reconstruct": [x]}
        pruning = FilterPruning(layers=Layers.ALL)
        return sweep(model, pruning, [0.0, 0.5], example=x, evaluate=evaluate, realise=realise, **batches)

    assert rows(spoil) == rows(_evaluate(x))


@pytest.mark.parametrize("found", [lambda model: model.last.weight.sum(), lambda _: torch.ones(1, 1), lambda _: 1])
def test_what_evaluate_returns_becomes_a_plain_number(found):
    (row,) = sweep(Normed().eval(), FilterPruning(), [0.0], example=torch.randn(2, 16), evaluate=found)
    assert type(row.raw) is float
    assert json.loads(json.dumps(dataclasses.asdict(row)))["raw"] == row.raw


@pytest.mark.parametrize(
    ("found", "kind"),
    [({"accuracy": 1.0}, "dict"), ((1, 2), "tuple"), (None, "NoneType"), ("0.5", "str"),
     (torch.ones(2), r"Tensor of shape \[2\]")],
)  # fmt: skip
def test_what_evaluate_returns_must_be_one_number(found, kind):
    with pytest.raises(TypeError, match=f"evaluate must return one number, .* found a {kind}"):
        sweep(Normed().eval(), FilterPruning(), [0.0], example=torch.randn(2, 16), evaluate=lambda _: found)
