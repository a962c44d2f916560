from pathlib import Path

import pytest
import torch
from torch import nn
from training_recipes import tiny

from pliant.models import create
from pliant.optim import SFW
from pliant.structure import Free, Plan
from pliant.training.methods import METHODS
from pliant.training.methods.section import Scene
from pliant.training.schedules import Constant, Cosine, Linear, WarmCosine, scheduler_for

STEPS = 8
EXAMPLE = torch.zeros(1, 1, 8, 8)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return create("cnn-4", num_classes=10, in_channels=1, image_size=8, widths=[4, 4, 4, 4])


def build(section, model):
    return section.build(Scene(model, EXAMPLE, epochs=2, epoch_steps=STEPS // 2, seed=0))


def lrs_of(method, model):
    """The learning rate that each step of a run really has, a list a group."""
    seen = []
    for _ in range(STEPS):
        seen.append([group["lr"] for group in method.optimizer.param_groups])
        nn.functional.cross_entropy(model(torch.randn(4, 1, 8, 8)), torch.arange(4)).backward()
        method.optimizer.step()
        method.optimizer.zero_grad()
        method.scheduler.step()
    return [list(group) for group in zip(*seen, strict=True)]


@pytest.mark.parametrize(
    ("schedule", "middle"), [(Constant(), 1.0), (Linear(), 0.5), (Cosine(), 0.5)], ids=["constant", "linear", "cosine"]
)
def test_a_schedule_starts_at_the_whole_rate_and_ends_where_it_says(schedule, middle):
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=2.0)
    scheduler = scheduler_for(optimizer, [schedule], STEPS)
    rates = [optimizer.param_groups[0]["lr"]]
    for _ in range(STEPS):
        optimizer.step()
        scheduler.step()
        rates.append(optimizer.param_groups[0]["lr"])
    assert rates[0] == 2.0
    assert rates[STEPS // 2] == pytest.approx(2.0 * middle)
    assert rates[STEPS] == pytest.approx(2.0 * schedule.factor(1.0))
    assert schedule.factor(1.0) == (1.0 if schedule == Constant() else 0.0)


def test_random_cuts_start_after_their_share_of_the_run(model):
    method = "method={type: random-cut, compressors: [filters], start: 0.3, inner: {type: sgd}}"
    assert build(tiny(method).method, model).optimizer.start == round(0.3 * STEPS)


def test_a_warm_schedule_rises_to_the_whole_rate_and_then_falls_as_the_cosine_does():
    schedule = WarmCosine(0.2)
    assert [schedule.factor(done) for done in (0.0, 0.1, 0.2, 1.0)] == pytest.approx([0.0, 0.5, 1.0, 0.0])
    assert [schedule.factor(0.2 + 0.8 * done) for done in (0.25, 0.5, 0.9)] == pytest.approx(
        [Cosine().factor(done) for done in (0.25, 0.5, 0.9)]
    )
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=2.0)
    scheduler_for(optimizer, [schedule], STEPS)
    assert optimizer.param_groups[0]["lr"] == 0.0
    with pytest.raises(ValueError, match=r"warm must be a share of the run, 0 < warm < 1, found 1\.0"):
        WarmCosine(1.0)


def test_shrinkage_brings_its_own_profile_while_the_rest_follows_the_schedule(model):
    recipe = tiny("method.schedule=linear", "method.rest={type: free, lr: 0.05}").method
    method = build(recipe, model)
    for group, rates in zip(method.optimizer.param_groups, lrs_of(method, model), strict=True):
        if group["region"] is None:
            assert rates == pytest.approx([0.05 * (1 - step / STEPS) for step in range(STEPS)])
        else:
            assert rates == [1.0] * STEPS
    assert method.shrinkage() == pytest.approx(1.0)
    assert method.lr() == pytest.approx(0.0)


@pytest.mark.parametrize("step", ["gradient", "fast-gradient", "diameter", "raw"])
def test_other_step_rules_follow_the_schedule(model, step):
    recipe = tiny(f"method.step={{type: {step}}}", "method.lr=0.01", "method.schedule=cosine").method
    method = build(recipe, model)
    rates = lrs_of(method, model)[0]
    assert rates[0] == 0.01
    assert rates[STEPS // 2] == pytest.approx(0.005)
    assert method.shrinkage() > 0


@pytest.mark.parametrize("plan", ["filters", "low-rank", "unstructured"])
def test_what_the_recipe_leaves_out_is_the_plans_own_default(model, plan):
    method = build(tiny(f"method.plan={plan}").method, model)
    assert isinstance(method.optimizer, SFW)
    names = {name for group in method.plan for name in group.names}
    assert names == {name for name, _ in model.named_parameters()}


@pytest.mark.parametrize(
    ("norms", "text"),
    [
        ("{type: ball, ball: k-support, k: 2, radius: {type: fixed, radius: 5.0}}", "k-support on entries"),
        ("{type: ball, ball: lp, p: 3.0, radius: {type: diameter, diameter: 2.0}}", "l3 on entries"),
        ("{type: ball, ball: l2, radius: {type: init-scaled, scale: 10.0}}", "l2 on entries"),
        ("{type: free, lr: 0.2}", "free, SGD lr 0.2"),
        ("{type: joined}", "k-support on channels"),
    ],
)
def test_treatments_of_the_recipe_reach_the_plan(model, norms, text):
    method = build(tiny(f"method.norms={norms}").method, model)
    assert text in str(method.plan)


def test_coupled_atoms_of_the_recipe_reach_the_plan(model):
    recipe = tiny("method.coupled=true", "method.k=2", "method.rest={type: free, lr: 0.2}").method
    plan = build(recipe, model).plan
    names = ("features.conv1.weight", "features.bn1.weight", "features.bn1.bias")
    assert plan.to_json() == Plan.for_filters(model, k=2, coupled=True, example=EXAMPLE, rest=Free(lr=0.2)).to_json()
    assert plan.groups[0].names == names
    assert tiny().method.coupled is False


def test_building_moves_no_weight(model):
    before = [parameter.clone() for parameter in model.parameters()]
    build(tiny("method.norms={type: joined}").method, model)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_rules_say_everything_about_a_plan(model):
    recipe = tiny(
        "method={type: sfw, plan: rules, step: {type: raw}, rules: ["
        "{layers: norm, treat: {type: ball, ball: k-support, k: 0.5}},"
        "{name: 'classifier.*', treat: {type: free, lr: 0.3}},"
        "{layers: convolution, local: weight, treat: {type: ball, ball: group-k-support, k: 2}}]}"
    ).method
    groups = build(recipe, model).plan.groups
    found = {group.names: type(group.target).__name__ for group in groups}
    assert found[("features.bn1.weight",)] == found[("features.conv4.weight",)] == "Ball"
    assert found[("classifier.weight", "classifier.bias")] == "Free"
    assert len(groups) == 4 + 2 * 4 + 1


def test_every_method_has_a_row_on_the_page_of_methods():
    page = (Path(__file__).resolve().parents[2] / "docs" / "methods.md").read_text()
    assert [name for name in METHODS if f"| `{name}` |" not in page] == []
