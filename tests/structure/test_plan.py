"""Plans: every trainable parameter once, or a failure that names it; text, JSON and feasible starts."""

import json
import math

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune

from pliant.models import NAMES, create
from pliant.optim import SFW
from pliant.regions import Axes, Ball, Coupled, Entries, Filters, Lp, Scaled, Singular, TopK
from pliant.structure import Constraint, Diameter, Fixed, Free, Group, InitScaled, Joined, Plan, Rule, initial_norm
from pliant.structure.rules import slots_of

PRESETS = [Plan.for_filters, Plan.for_low_rank, Plan.for_unstructured]


def small():
    return nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 3))


def model_of(name):
    return create(name, num_classes=10, in_channels=3, image_size=32)


class Zoo(nn.Module):
    """A bit of everything that is easily forgotten."""

    def __init__(self):
        super().__init__()
        self.token = nn.Parameter(torch.ones(1, 1, 4))
        self.positions = nn.Parameter(torch.ones(1, 5, 4))
        self.layer_scale = nn.Parameter(torch.full((4,), 1e-5))
        self.temperature = nn.Parameter(torch.tensor(2.0))
        self.attention = nn.MultiheadAttention(4, 2, add_bias_kv=True)
        self.rnn = nn.LSTM(4, 3, proj_size=2)
        self.conv = nn.Conv2d(2, 4, 3)
        self.normed = parametrizations.weight_norm(nn.Linear(4, 4))
        self.embedding = nn.Embedding(7, 4)
        self.head = nn.Linear(4, 7)
        self.head.weight = self.embedding.weight
        self.twin = self.conv
        self.frozen = nn.Linear(4, 4).requires_grad_(False)


def names(plan):
    return [name for group in plan for name in group.names]


def by_name(plan):
    return {name: group.target for group in plan for name in group.names}


def test_every_trainable_parameter_is_there_once():
    model = Zoo()
    expected = [name for name, p in model.named_parameters() if p.requires_grad]
    plan = Plan.from_rules(model, [Rule(Constraint(Lp(2.0)))])
    assert names(plan) == expected
    assert [id(p) for group in plan for _, p in group.options()["params"]] == [id(p) for p in _trainable(model)]
    assert {"attention.in_proj_weight", "attention.bias_k", "token", "positions", "layer_scale"} <= set(expected)
    assert {"rnn.weight_hr_l0", "normed.parametrizations.weight.original0", "temperature"} <= set(expected)
    assert not {"head.weight", "twin.weight", "frozen.weight"} & set(names(plan))


def _trainable(model):
    return [p for p in model.parameters() if p.requires_grad]


@pytest.mark.parametrize("view", [Entries, Filters, Singular])
def test_every_parameter_can_be_constrained_and_stepped(view):
    model = Zoo()
    plan = Plan.from_rules(model, [Rule(Constraint(TopK(0.5), view))])
    plan.make_feasible()
    optimizer = SFW(plan.param_groups(), lr=0.1)
    for p in _trainable(model):
        p.grad = torch.ones_like(p)
    optimizer.step()
    assert all(seen.value <= seen.radius * (1 + 1e-5) for seen in optimizer.diagnostics())


def test_the_first_rule_wins():
    rules = [
        Rule(Free(lr=0.1), name="3.*"),
        Rule(Constraint(Lp(2.0), radius=Fixed(1.0)), modules=(nn.BatchNorm2d,)),
        Rule(Constraint(Lp(2.0), radius=Fixed(2.0)), local="weight"),
        Rule(Free(lr=0.2)),
    ]
    found = by_name(Plan.from_rules(small(), rules))
    assert found["3.weight"] == found["3.bias"] == Free(lr=0.1)
    assert found["1.weight"].radius == found["1.bias"].radius == 1.0
    assert found["0.weight"].radius == 2.0
    assert found["0.bias"] == Free(lr=0.2)


def test_unmatched_parameters_are_named():
    with pytest.raises(ValueError, match=r"no rule matches 0\.bias, 1\.bias, 3\.bias; add rules"):
        Plan.from_rules(small(), [Rule(Free(), local="weight")])


@pytest.mark.parametrize("preset", PRESETS)
def test_models_without_trainable_parameters_are_refused(preset):
    for model in (nn.ReLU(), small().requires_grad_(False)):
        with pytest.raises(ValueError, match=r"no trainable parameter|no layer is left to constrain"):
            preset(model, k=0.5)


@pytest.mark.parametrize("preset", PRESETS)
def test_a_plan_that_would_constrain_nothing_is_refused(preset):
    with pytest.raises(ValueError, match=r"no layer is left to constrain: the model has no fitting layer"):
        preset(nn.Sequential(nn.LSTM(3, 4)), k=0.5)
    with pytest.raises(ValueError, match=r"no layer is left .* ignore is \['\*'\]"):
        preset(small(), k=0.5, ignore=["*"])
    model = small()
    model[0].requires_grad_(False)
    model[3].weight.requires_grad_(False)
    with pytest.raises(ValueError, match=r"no layer is left .* frozen weights do not count"):
        preset(model, k=0.5)


@pytest.mark.parametrize("preset", PRESETS)
def test_a_pattern_outside_of_a_list_is_refused(preset):
    with pytest.raises(ValueError, match=r"ignore must be a tuple of name patterns .* found '0'"):
        preset(small(), k=0.5, ignore="0")


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("normalise", [parametrizations.weight_norm, parametrizations.spectral_norm])
def test_computed_weights_are_refused_by_name_and_may_be_ignored(preset, normalise):
    model = nn.Sequential(normalise(nn.Conv2d(2, 4, 3)), nn.Conv2d(4, 4, 1), nn.Flatten(), nn.Linear(4, 3))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ValueError, match=r"the weight of 0 is computed, .* name these layers in ignore"):
        preset(model, k=0.5)
    plan = preset(model, k=0.5, ignore=["0"], rest=Constraint(Lp(2.0)))
    assert sorted(names(plan)) == sorted(name for name, _ in model.named_parameters())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    parametrize.remove_parametrizations(model[0], "weight")
    assert "0.weight" in names(preset(model, k=0.5))


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize(
    "computed",
    [lambda layer: prune.random_unstructured(layer, "weight", 0.5), nn.utils.spectral_norm],
    ids=["pruned", "old spectral norm"],
)
def test_weights_computed_by_hooks_are_refused_by_name_and_may_be_ignored(preset, computed):
    model = nn.Sequential(computed(nn.Conv2d(2, 4, 3)), nn.Conv2d(4, 4, 1), nn.Flatten(), nn.Linear(4, 3))
    with pytest.raises(
        ValueError, match=r"the weight of 0 is computed, .* prune\.remove\), or name these layers in ig"
    ):
        preset(model, k=0.5)
    assert isinstance(by_name(preset(model, k=0.5, ignore=["0"]))["0.weight_orig"], Free)


def test_a_plan_holds_pruned_layers_once_the_pruning_is_made_permanent():
    model = small()
    prune.random_unstructured(model[0], "weight", 0.5)
    prune.remove(model[0], "weight")
    assert isinstance(by_name(Plan.for_filters(model, k=0.5))["0.weight"], Ball)


CONSTRUCTORS = {
    "filters": lambda model: Plan.for_filters(model, k=0.5, ignore=["0"]),
    "rank": lambda model: Plan.for_low_rank(model, k=0.5, ignore=["0"]),
    "entries": lambda model: Plan.for_unstructured(model, k=0.5, ignore=["0"]),
    "rules": lambda model: Plan.from_rules(model, [Rule(Free())]),
    "json": lambda model: Plan.from_json(model, "[]"),
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:Lazy modules:UserWarning")
@pytest.mark.parametrize("construct", CONSTRUCTORS)
@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            lambda: torch.compile(small(), backend="eager"),
            r"the model must not be wrapped by torch\.compile, .* give the module that was",
        ),
        (lambda: nn.Sequential(nn.DataParallel(small())), r"'0' must not be wrapped by DataParallel, which renames"),
        (lambda: nn.Sequential(nn.LazyConv2d(8, 3)), r"'0\.weight' must have a shape, .* call the model once"),
    ],
    ids=["compiled", "parallel", "lazy"],
)
def test_models_whose_parameters_have_no_names_or_sizes_of_their_own_are_refused(construct, model, message):
    with pytest.raises(ValueError, match=message):
        CONSTRUCTORS[construct](model())


@pytest.mark.parametrize("name", [name for name in NAMES if name not in {"resnet-56", "wide-resnet-28-10"}])
def test_presets_assign_what_they_say_on_all_models(name):
    model = model_of(name)
    owners = dict(model.named_modules())
    for preset, view in zip(PRESETS, (Filters, Singular, Entries), strict=True):
        plan = preset(model, k=0.3)
        assert sorted(names(plan)) == sorted(n for n, _ in model.named_parameters())
        linear = [n for n, m in owners.items() if isinstance(m, nn.Linear)]
        convolutions = [n for n, m in owners.items() if isinstance(m, nn.Conv2d)]
        chosen = {
            Filters: convolutions or linear[:-1],
            Singular: convolutions + linear[:-1],
            Entries: convolutions + linear,
        }[view]
        found = by_name(plan)
        weights = {n for n, t in found.items() if isinstance(t, Ball) and t.gauge == TopK(0.3)}
        assert weights == {f"{layer}.weight" for layer in chosen}
        for layer in chosen:
            target = found[f"{layer}.weight"]
            assert isinstance(target.view, view)
            n0 = initial_norm(owners[layer], "weight", owners[layer].weight)
            assert target.radius == pytest.approx({Filters: 30.0, Singular: 10.0, Entries: 30.0}[view] * n0)


def test_treatments_of_norms_and_rest_are_followed():
    found = by_name(Plan.for_low_rank(small(), k=2, norms=Free(lr=0.3), rest=Constraint(Lp(2.0), radius=Fixed(5.0))))
    assert found["1.weight"] == found["1.bias"] == Free(lr=0.3)
    assert found["0.bias"].radius == found["3.weight"].radius == found["3.bias"].radius == 5.0
    assert isinstance(found["0.weight"].view, Singular)


def test_joined_is_for_filters_alone_and_says_so():
    for preset in PRESETS[1:]:
        with pytest.raises(ValueError, match=r"1\.weight: the treatment must be .* Joined\(\) is for norms="):
            preset(small(), k=0.5, norms=Joined())
    with pytest.raises(ValueError, match=r"norms=Joined\(\) needs example="):
        Plan.for_filters(small(), k=0.5, norms=Joined())


def test_joined_atoms_and_radii_are_as_documented():
    model = small()
    plan = Plan.for_filters(model, k=2, radius=InitScaled(3.0), norms=Joined(), example=torch.ones(1, 2, 3, 3))
    atom, rest = plan
    assert atom.names == ("0.weight", "0.bias", "1.weight", "1.bias")
    assert rest.names == ("3.weight", "3.bias")
    n0 = (math.sqrt(4 / 3), math.sqrt(4 / (3 * 18)), 2.0, 1.0)
    assert isinstance(atom.target.view, Scaled)
    assert atom.target.view.view == Coupled((Filters(),) * 4)
    assert atom.target.view.factors == pytest.approx([1 / n for n in n0])
    assert atom.target.radius == pytest.approx(3.0 * math.sqrt(4))
    tensors = [p.detach() for _, p in atom.options()["params"]]
    channels = [t.reshape(4, -1).norm(dim=1) / n for t, n in zip(tensors, n0, strict=True)]
    magnitudes = torch.stack(channels).norm(dim=0)
    expected = TopK(2).value(magnitudes)
    torch.testing.assert_close(atom.target.value(tensors), expected)


def test_joined_leaves_other_norms_to_otherwise():
    model = nn.Sequential(nn.Conv2d(2, 4, 3, bias=False), nn.ReLU(), nn.BatchNorm2d(4))
    joined = Joined(otherwise=Constraint(Lp(2.0), radius=Fixed(7.0)))
    plan = Plan.for_filters(model, k=2, norms=joined, example=torch.ones(1, 2, 3, 3))
    assert plan.groups[0].names == ("0.weight",)
    assert [group.target.radius for group in plan.groups[1:]] == [7.0, 7.0]


@pytest.mark.parametrize("name", ["cnn-4", "vgg-16-bn", "resnet-20", "resnet-18", "lenet-5", "lenet-300-100"])
def test_joined_covers_every_convolution_of_a_model(name):
    model = model_of(name)
    example = torch.zeros(1, 3, 32, 32)
    plan = Plan.for_filters(model, k=0.2, norms=Joined(), example=example)
    assert sorted(names(plan)) == sorted(n for n, _ in model.named_parameters())
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    shared = [group for group in plan if isinstance(group.target, Ball)]
    assert sum(len(group.slots) for group in shared) >= 2 * len(norms) + len(shared)


def test_transposed_and_grouped_layers_join_along_their_output_channels():
    model = nn.Sequential(nn.ConvTranspose2d(2, 6, 3, groups=2), nn.BatchNorm2d(6))
    (atom,) = Plan.for_filters(model, k=2, norms=Joined(), example=torch.ones(1, 2, 3, 3))
    assert atom.target.view.view.members[0] == Filters(Axes(out=1, groups=2))
    assert atom.target.view.count(*[p.shape for _, p in atom.options()["params"]]) == 6


GOLDEN = """\
parameter  shape    region                                                 k       radius  diameter
---------------------------------------------------------------------------------------------------
0.weight   4x2x3x3  k-support on filters                                   2 of 4  34.64   69.28
1.weight   4        k-support on entries                                   1 of 4  60      120
1.bias     4        k-support on entries                                   1 of 4  30      60
0.bias     4        free, SGD lr 0.05, momentum 0.9, decay 0
3.weight   3x4      free, SGD lr 0.05, momentum 0.9, decay 0
3.bias     3        free, SGD lr 0.05, momentum 0.9, decay 0"""


def squeezed(text):
    return [" ".join(line.split()) for line in text.splitlines() if set(line) != {"-"}]


def test_the_text_is_a_table():
    text = str(Plan.for_filters(small(), k=0.5))
    assert squeezed(text) == squeezed(GOLDEN)
    lines = text.splitlines()
    assert set(lines[1]) == {"-"}
    columns = [lines[0].index(head) for head in ("parameter", "shape", "region", "k  ", "radius", "diameter")]
    assert columns == sorted(columns)
    assert all(line[c - 1 : c] in {"", " "} for line in (lines[0], *lines[2:]) for c in columns[1:])
    assert repr(Plan.for_filters(small(), k=0.5)).startswith("Plan of 4 groups\n")


def test_the_table_shows_joined_atoms_and_gauges_of_others():
    joined = Plan.for_filters(small(), k=2, norms=Joined(), example=torch.ones(1, 2, 3, 3))
    assert squeezed(str(joined))[1].startswith("0.weight 4x2x3x3 k-support on channels 2 of 4 60")
    assert squeezed(str(joined))[2] == "0.bias 4 + the above"
    rules = [Rule(Constraint(Lp(math.inf), Singular), name="0.weight"), Rule(Constraint(TopK(3, math.inf)))]
    text = squeezed(str(Plan.from_rules(small(), rules)))
    assert text[1].startswith("0.weight 4x2x3x3 linf on singular values")
    assert text[2].startswith("0.bias 4 k-sparse on entries 3 of 4")


@pytest.mark.parametrize(
    "make",
    [
        lambda m: Plan.for_filters(m, k=0.5),
        lambda m: Plan.for_filters(m, k=1, norms=Joined(), example=torch.ones(1, 2, 3, 3)),
        lambda m: Plan.for_low_rank(m, k=1.0, radius=Diameter(9.0)),
        lambda m: Plan.from_rules(m, [Rule(Constraint(TopK(2, math.inf), Singular))]),
    ],
)
def test_json_rebuilds_the_plan(make):
    model, other = small(), small()
    plan = make(model)
    rebuilt = Plan.from_json(other, plan.to_json())
    json.loads(plan.to_json())
    assert [(g.names, g.target) for g in plan] == [(g.names, g.target) for g in rebuilt]
    assert str(plan) == str(rebuilt)
    assert {id(p) for g in rebuilt.param_groups() for _, p in g["params"]} == {id(p) for p in other.parameters()}


def test_json_of_another_model_is_refused_by_name():
    text = Plan.for_filters(small(), k=0.5).to_json()
    with pytest.raises(ValueError, match=r"trainable parameters differ: 3\.bias, 3\.weight"):
        Plan.from_json(small()[:3], text)
    frozen = small()
    frozen[0].bias.requires_grad_(False)
    with pytest.raises(ValueError, match=r"trainable parameters differ: 0\.bias"):
        Plan.from_json(frozen, text)


def test_json_of_a_model_with_other_shapes_is_refused_by_name():
    text = Plan.from_rules(nn.Conv2d(4, 4, 3, groups=4), [Rule(Constraint(TopK(1), Filters))]).to_json()
    with pytest.raises(ValueError, match=r"weight of shape .* do not fit their region: axis 0"):
        Plan.from_json(nn.Conv2d(4, 6, 3), text)


def test_groups_of_a_plan_are_ready_for_the_optimizer():
    plan = Plan.for_filters(small(), k=0.5)
    assert len(plan) == 4
    assert all(isinstance(group, Group) for group in plan)
    groups = plan.param_groups()
    assert groups[-1]["region"] is None
    assert (groups[-1]["lr"], groups[-1]["momentum"], groups[-1]["weight_decay"]) == (0.05, 0.9, 0.0)
    assert len(SFW(groups, lr=0.1).param_groups) == 4


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_make_feasible_refuses_weights_that_diverged_and_names_them(preset, bad):
    model = small()
    plan = preset(model, k=2)
    with torch.no_grad():
        model[0].weight[0, 0] = bad
    with pytest.raises(ValueError, match=r"weights must be finite .* in 0\.weight; start from weights of before"):
        plan.make_feasible()


def test_make_feasible_scales_radially_and_reports():
    torch.manual_seed(0)
    model = small()
    rules = [Rule(Constraint(TopK(2), Singular, Fixed(0.2)), local="weight"), Rule(Free())]
    plan = Plan.from_rules(model, rules)
    with torch.no_grad():
        model[1].weight.mul_(0.01)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    pointers = [p.data_ptr() for p in model.parameters()]
    moved = plan.make_feasible()
    assert [m.names for m in moved] == [("0.weight",), ("3.weight",)]
    for m in moved:
        (name,) = m.names
        region, weight = by_name(plan)[name], model.get_parameter(name).detach()
        assert m.value == pytest.approx(float(region.value(before[name])))
        assert m.radius == 0.2
        assert float(region.value(weight)) == pytest.approx(0.2, rel=1e-6)
        torch.testing.assert_close(weight, before[name] * (m.radius / m.value))
    still = {n for n in before if (n,) not in {m.names for m in moved}}
    assert all(torch.equal(before[n], model.get_parameter(n)) for n in still)
    assert pointers == [p.data_ptr() for p in model.parameters()]
    assert all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("seed", range(20))
def test_make_feasible_twice_moves_nothing(seed):
    torch.manual_seed(seed)
    model = small()
    plan = Plan.from_rules(model, [Rule(Constraint(TopK(0.3), Singular, Fixed(0.1)))])
    plan.make_feasible()
    before = [p.detach().clone() for p in model.parameters()]
    assert plan.make_feasible() == []
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_make_feasible_scales_joined_tensors_together():
    model = small()
    plan = Plan.for_filters(model, k=1, radius=Fixed(0.5), norms=Joined(), example=torch.ones(1, 2, 3, 3))
    before = [p.detach().clone() for p in list(model.parameters())[:4]]
    (moved,) = plan.make_feasible()
    assert moved.names == plan.groups[0].names
    for old, new in zip(before, list(model.parameters())[:4], strict=True):
        torch.testing.assert_close(new.detach(), old * (0.5 / moved.value))


def test_slots_know_their_module():
    model = small()
    assert [(s.name, s.local, s.module) for s in slots_of(model)][:2] == [
        ("0.weight", "weight", model[0]),
        ("0.bias", "bias", model[0]),
    ]


@pytest.mark.parametrize("options", [{"lr": -0.1}, {"momentum": 1.0}, {"weight_decay": -1.0}, {"lr": math.nan}])
def test_free_refuses_impossible_values(options):
    ((name, value),) = options.items()
    with pytest.raises(ValueError, match=rf"{name} must be .*, found {value}"):
        Free(**options)


def test_scale_weights_touches_constrained_weights_alone():
    model = small()
    before = {name: value.clone() for name, value in model.named_parameters()}
    plan = Plan.for_filters(model, k=0.5)
    plan.scale_weights(0.5)
    free = {name for group in plan if isinstance(group.target, Free) for name in group.names}
    assert free
    for name, value in model.named_parameters():
        assert torch.equal(value, before[name] if name in free else 0.5 * before[name])
    for factor in (0.0, 1.5, float("nan")):
        with pytest.raises(ValueError, match="factor must be in"):
            plan.scale_weights(factor)


def test_by_default_norms_that_mix_channels_are_left_to_rest():
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3), nn.GroupNorm(2, 4))
    found = by_name(Plan.for_filters(model, k=0.5, rest=Free(lr=0.7)))
    assert isinstance(found["1.weight"], Ball)
    assert found["3.weight"] == found["3.bias"] == Free(lr=0.7)
    named = by_name(Plan.for_filters(model, k=0.5, norms=Constraint(TopK(1))))
    assert isinstance(named["3.weight"], Ball)
