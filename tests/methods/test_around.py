"""Maps around a step: the laws of optimizers, what a map sees, and what it remembers."""

import copy
from dataclasses import dataclass, field

import pytest
import torch
from torch import nn
from torch.optim import SGD, AdamW

from pliant.methods import (
    Around,
    LoRITa,
    LowRankCores,
    Stack,
    StepMap,
    Target,
    filter_targets,
    matrix_targets,
    stacks,
)
from pliant.optim import SFW
from pliant.structure import InitScaled, Plan
from pliant.testing.optimizer_laws import OPTIMIZER_LAWS, check_optimizer
from pliant.testing.optimizers import finite, habits, motion
from pliant.testing.optimizers.case import small_model

OF_THE_INNER = {finite.nonfinite_gradients_touch_nothing}  # SGD takes what it is given
LAWS = [law for law in OPTIMIZER_LAWS if law not in OF_THE_INNER]


@dataclass(frozen=True)
class Noisy(StepMap):
    """Adds remembered noise to gradients and shrinks weights by the rate: uses all that a map may use."""

    targets: tuple[Target, ...]

    def before(self, step):
        draws = torch.Generator().manual_seed(step.number)
        for target in step.moving(self.targets):
            noise = torch.randn(target.parameter.shape, generator=draws, dtype=target.parameter.dtype)
            past = step.memory.setdefault(f"past {target.name}", torch.zeros_like(noise))
            past.mul_(0.5).add_(noise)
            target.parameter.grad = target.parameter.grad + 0.01 * past

    def after(self, step):
        for stack in stacks(step.moving(self.targets)):
            rates = stack.spread([step.lr(target.parameter) for target in stack.members])
            stack.write(stack.matrices * (1 - 0.1 * rates))


@dataclass(frozen=True)
class Diary(StepMap):
    """Writes down what it sees."""

    parameter: nn.Parameter
    seen: list = field(default_factory=list)

    def before(self, step):
        self.seen.append(("before", step.number, step.lr(self.parameter), self.parameter.item()))

    def after(self, step):
        self.seen.append(("after", step.number, step.lr(self.parameter), self.parameter.item()))


def mapped(make):
    return lambda model: Around(make(model), [Noisy(matrix_targets(model, last=True))])


def sgd(model):
    return SGD(model.parameters(), lr=0.05, momentum=0.9)


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
def test_without_maps_it_is_the_inner_optimizer(law):
    check_optimizer(lambda model: Around(sgd(model), []), laws=[law])


# Gradients are edited, by design; noise is drawn target by target; maps keep to the parameters that they were given.
EXCEPT = {
    habits.gradients_are_untouched,
    habits.added_groups_are_alone,
    *(law for law in LAWS if law.__name__ == "without_gradient_no_influence"),
}


@pytest.mark.parametrize("law", [law for law in LAWS if law not in EXCEPT], ids=lambda law: law.__name__)
def test_the_laws_hold_around_sgd(law):
    check_optimizer(mapped(sgd), laws=[law])


def test_maps_leave_frozen_weights_alone():
    def make(model):
        return SFW(Plan.for_low_rank(model, k=1, radius=InitScaled(2.0)), lr=0.05)

    check_optimizer(mapped(make), laws=[motion.frozen_weights_do_not_move])


@pytest.mark.parametrize("name", ["resumed_is_uninterrupted", "deepcopy_is_uninterrupted", "state_dict_is_plain"])
@pytest.mark.parametrize(
    "make",
    [
        lambda model: AdamW(model.parameters(), lr=0.05),
        lambda model: SFW(Plan.for_low_rank(model, k=1, radius=InitScaled(2.0)), lr=0.05),
    ],
    ids=["adamw", "sfw"],
)
def test_state_travels_around_any_optimizer(make, name):
    (law,) = [law for law in LAWS if law.__name__ == name]
    check_optimizer(mapped(make), laws=[law])


@pytest.fixture
def one():
    return nn.Parameter(torch.tensor([1.0]))


def test_a_map_sees_the_weight_before_and_after_and_the_rate_of_the_step(one):
    diary = Diary(one)
    optimizer = Around(SGD([one], lr=0.5), [diary])
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.5)
    for _ in range(2):
        one.grad = torch.ones(1)
        optimizer.step()
        scheduler.step()
    assert diary.seen == [
        ("before", 0, 0.5, 1.0),
        ("after", 0, 0.5, 0.5),
        ("before", 1, 0.25, 0.5),
        ("after", 1, 0.25, 0.25),
    ]


def test_maps_run_in_their_order(one):
    calls = []

    @dataclass(frozen=True)
    class Named(StepMap):
        name: str

        def before(self, _):
            calls.append(f"{self.name} before")

        def after(self, _):
            calls.append(f"{self.name} after")

    one.grad = torch.ones(1)
    Around(SGD([one], lr=0.1), [Named("first"), Named("second")]).step()
    assert calls == ["first before", "second before", "first after", "second after"]


def test_a_step_without_gradients_runs_no_map_and_does_not_count(one):
    diary = Diary(one)
    optimizer = Around(SGD([one], lr=0.1), [diary])
    optimizer.step()
    assert not diary.seen
    assert optimizer.taken == 0


def test_the_copy_of_model_and_optimizer_maps_the_copied_weights():
    model = small_model()
    optimizer = mapped(sgd)(model)
    twin, copied = copy.deepcopy((model, optimizer))
    for parameter in twin.parameters():
        parameter.grad = torch.ones_like(parameter)
    before = [parameter.clone() for parameter in model.parameters()]
    copied.step()
    assert {id(target.parameter) for target in copied.maps[0].targets} <= {id(p) for p in twin.parameters()}
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_what_is_no_map_and_a_foreign_state_are_refused(one):
    with pytest.raises(TypeError, match="maps must be StepMap objects, found 3"):
        Around(SGD([one], lr=0.1), [3])
    optimizer = Around(SGD([one], lr=0.1), [Diary(one)])
    with pytest.raises(ValueError, match="an Around with 1 maps, found no maps at all"):
        optimizer.load_state_dict(SGD([one], lr=0.1).state_dict())
    with pytest.raises(ValueError, match="an Around with 1 maps, found 0 maps"):
        optimizer.load_state_dict(Around(SGD([one], lr=0.1), []).state_dict())


def test_a_map_of_another_model_is_told_so(one):
    stranger = Diary(nn.Parameter(torch.ones(3)))
    one.grad = torch.ones(1)
    with pytest.raises(ValueError, match=r"shape \(3,\) that is in no group of the optimizer"):
        Around(SGD([one], lr=0.1), [stranger]).step()


# targets


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3)
        self.depthwise = nn.Conv2d(8, 8, 3, groups=8)
        self.up = nn.ConvTranspose2d(8, 6, 2)
        self.norm = nn.BatchNorm2d(6)
        self.hidden = nn.Linear(6, 5)
        self.last = nn.Linear(5, 2)


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({}, ["first", "depthwise", "up", "hidden"]),
        ({"first": False}, ["depthwise", "up", "hidden"]),
        ({"last": True}, ["first", "depthwise", "up", "hidden", "last"]),
        ({"ignore": ["*p*"]}, ["first", "hidden"]),
    ],
)
def test_targets_are_the_weights_that_are_asked_for(options, names):
    assert [target.name for target in matrix_targets(Net(), **options)] == names


@pytest.mark.filterwarnings("ignore:.*script_method")  # torch's compiler imports what torch deprecates
@pytest.mark.parametrize("of", [matrix_targets, filter_targets, LoRITa().apply, LowRankCores(0.5).apply])
def test_wrappers_that_rename_layers_are_refused_as_by_plans(of):
    for wrapped in (torch.compile(Net()), nn.Sequential(torch.compile(Net()))):
        with pytest.raises(ValueError, match=r"must not be wrapped by torch\.compile"):
            Plan.for_low_rank(wrapped, k=1)
        with pytest.raises(ValueError, match=r"must not be wrapped by torch\.compile"):
            of(wrapped)


def test_matrices_have_output_channels_as_rows_and_come_back():
    shapes = {target.name: target for target in matrix_targets(Net())}
    assert {name: tuple(target.matrices().shape) for name, target in shapes.items()} == {
        "first": (1, 8, 27),
        "depthwise": (8, 1, 9),
        "up": (1, 6, 32),
        "hidden": (1, 5, 6),
    }
    for target in shapes.values():
        doubled = target.shaped(2 * target.matrices())
        torch.testing.assert_close(doubled, 2 * target.parameter)
        target.write(target.matrices(like=doubled))
        assert torch.equal(target.parameter, doubled)


def test_stacks_hold_equal_shapes_and_write_each_member_its_own():
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(4, 3), nn.Conv2d(4, 3, 1), nn.Linear(5, 3))
    targets = matrix_targets(model, last=True)
    found = stacks(targets)
    assert [len(stack.members) for stack in found] == [3, 1]
    assert isinstance(found[0], Stack)
    found[0].write(found[0].matrices * found[0].spread([1.0, 2.0, torch.tensor(3.0)]))
    for target, factor in zip(found[0].members, (1.0, 2.0, 3.0), strict=True):
        part = found[0].matrices[found[0].members.index(target)]
        torch.testing.assert_close(target.matrices()[0], factor * part)
