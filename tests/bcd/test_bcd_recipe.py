import pytest
import torch
import yaml
from chains import NETS
from pydantic import TypeAdapter, ValidationError

from pliant.bcd import BCDError, Course, CrossEntropy, Geometric, HardMode
from pliant.bcd.recipe import BCDMethod, run
from pliant.sets import EntryBudget, RankSet, SparseSet, TensorTrainSet

FULL = """
type: bcd
sets:
  - {layers: "0.*", set: {type: tensor-train, entries: 0.5}}
  - {layers: "3", set: null}
  - {set: {type: sparse, k: 0.4}}
sweeps: 4
mode: hard
loss: cross-entropy
tau: 2.0
start: 0.5
growth: {tau: 1.5, every: 2}
synchronise_every: 2
refit: 0.01
polish: {epochs: 2}
"""


def method(text):
    return TypeAdapter(BCDMethod).validate_python(yaml.safe_load(text))


def test_a_section_says_everything_about_a_run():
    section = method(FULL)
    model = NETS["perceptron"].model()
    start = model[3].weight.detach().clone()
    bcd = section.build(model)
    assert torch.equal(model[3].weight.detach(), 0.5 * start)
    assert bcd.problem.sets == {0: TensorTrainSet(EntryBudget(0.5)), 1: SparseSet(0.4)}
    assert (bcd.problem.loss, bcd.problem.mode) == (CrossEntropy(), HardMode())
    assert section.course() == Course(Geometric(tau=1.5, every=2), synchronise_every=2)


def test_a_run_goes_through_all_of_its_steps():
    x, y = NETS["perceptron"].data(60)
    seen = []
    model = NETS["perceptron"].model()
    bcd = run(method(FULL), model, (x, y), evaluate=(x, y), on_sweep=seen.append)
    assert [progress.sweep for progress in seen] == [1, 2, 3, 4]
    assert bcd.gap() == 0.0
    with torch.no_grad():
        torch.testing.assert_close(bcd.compressed()(x), model(x))


def test_a_run_that_is_stopped_is_left_as_it_is():
    x, y = NETS["perceptron"].data()
    bcd = run(method(FULL), NETS["perceptron"].model(), (x, y), stop=lambda: True)
    assert bcd.done == 1


@pytest.mark.parametrize(
    ("entry", "named"),
    [
        ("{type: tensor-train}", "either rank or entries"),
        ("{type: tensor-train, rank: 2, entries: 3}", "either rank or entries"),
        ("{type: sparse, k: 0.0}", "k"),
        ("{type: rank, rank: 0}", "rank"),
        ("{type: n-of-m, n: 2}", "m"),
        ("{type: cubic}", "cubic"),
    ],
)
def test_a_set_that_makes_no_sense_is_refused(entry, named):
    with pytest.raises(ValidationError, match=named):
        method(f"{{type: bcd, sets: [{{set: {entry}}}]}}")


def test_an_entry_that_matches_nothing_is_refused():
    section = method("{type: bcd, sets: [{set: {type: rank, rank: 1}}, {layers: head, set: null}]}")
    assert section.sets[0].set.build() == RankSet(1)
    with pytest.raises(BCDError, match="'head'"):
        section.build(NETS["perceptron"].model())
