"""The law suite over SFW, over torch's SGD, and over optimizers that break one law each."""

import math

import pytest
import torch
from torch import nn
from torch.optim import SGD

from pliant.optim import SFW, DiameterScaled, FastGradientScaled, GradientScaled, Raw, Shrinkage
from pliant.regions import (
    CATALOGUE,
    Axes,
    Ball,
    Coupled,
    Entries,
    Filters,
    Joint,
    Lp,
    Scaled,
    Singular,
    TopK,
    group_k_support_ball,
    l2_ball,
    spectral_k_support_ball,
)
from pliant.structure import Constraint, InitScaled, Joined, Plan, Rule
from pliant.testing.optimizer_laws import OPTIMIZER_LAWS, check_optimizer
from pliant.testing.optimizers import finite, habits, motion, rates, state
from pliant.testing.optimizers.case import small_model
from pliant.testing.violation import LawViolation

RULES = [GradientScaled(), FastGradientScaled(), DiameterScaled(), Raw(), Shrinkage(1.0, 20)]
SCALED = RULES[:2]


def single(region):
    return lambda model: [{"params": list(model.named_parameters()), "region": region}]


def joined(model):
    example = torch.ones(1, 2, 3, 3, dtype=model[0].weight.dtype)
    return Plan.for_filters(model, k=2, radius=InitScaled(2.0), norms=Joined(), example=example).param_groups()


def joint(model):
    named = list(model.named_parameters())
    shared = Ball(TopK(3), Joint((Filters(), Entries(), Singular())), 2.0)
    return [
        {"params": [named[0], named[1], named[4]], "region": shared},
        {"params": [named[2], named[3], named[5]], "region": l2_ball(1.0)},
    ]


def coupled(model):
    named = list(model.named_parameters())
    shared = Ball(TopK(2), Scaled(Coupled((Filters(),) * 4), (0.5, 1.0, 2.0, 3.0)), 2.0)
    return [
        {"params": named[:4], "region": shared},
        {"params": named[4:], "region": None, "lr": 0.02, "weight_decay": 0.01},
    ]


def free(model):
    return [{"params": list(model.named_parameters()), "region": None, "weight_decay": 0.01}]


def balls():
    for name, ball in CATALOGUE.items():
        options = {"k": 2} if "-k-" in f"-{name}" else {"p": 3.0} if name == "lp-ball" else {}
        yield pytest.param(single(ball(radius=1.5, **options)), id=name)


SPECTRAL = pytest.param(single(spectral_k_support_ball(2, 1.0)), id="spectral")
SEVERAL_SLOW = [pytest.param(f, id=f.__name__, marks=pytest.mark.slow) for f in (joined, joint, coupled)]
SEVERAL = [pytest.param(f, id=f.__name__) for f in (joined, joint, coupled, free)]


def sfw(groups, rule):
    return lambda model: SFW(groups(model), lr=0.05, step_rule=rule)


@pytest.mark.parametrize("groups", [*balls(), *SEVERAL])
def test_every_region_obeys_the_laws(groups):
    check_optimizer(sfw(groups, GradientScaled()))


@pytest.mark.parametrize("rule", RULES[1:], ids=lambda rule: type(rule).__name__)
@pytest.mark.parametrize("groups", [SPECTRAL, *SEVERAL_SLOW])
def test_every_step_rule_obeys_the_laws(rule, groups):
    check_optimizer(sfw(groups, rule))


@pytest.mark.parametrize("groups", [pytest.param(single(group_k_support_ball(2, 1.0)), id="group"), *SEVERAL])
def test_float64_obeys_the_laws(groups):
    check_optimizer(sfw(groups, GradientScaled()), dtype=torch.float64, seed=3)


@pytest.mark.parametrize("rule", SCALED, ids=lambda rule: type(rule).__name__)
@pytest.mark.parametrize("groups", [*balls(), *SEVERAL[:3]])
def test_zero_gradients_move_nothing_under_gradient_scaling(rule, groups):
    def without_decay(model):
        return SFW([group | {"weight_decay": 0.0} for group in groups(model)], lr=0.05, step_rule=rule)

    check_optimizer(without_decay, laws=[motion.zero_gradients_move_nothing])


@pytest.mark.parametrize("groups", [*balls(), *SEVERAL])
def test_frozen_weights_do_not_move(groups):
    check_optimizer(sfw(groups, Shrinkage(1.0, 20)), laws=[motion.frozen_weights_do_not_move])


def test_other_layers_obey_the_laws():
    def model():
        return nn.ModuleList(
            [nn.MultiheadAttention(4, 2), nn.LSTM(3, 2), nn.ConvTranspose2d(2, 4, 2, groups=2), nn.Embedding(3, 2)]
        )

    def make(model):
        rules = [Rule(Constraint(TopK(0.5), Singular, InitScaled(2.0)))]
        return SFW(Plan.from_rules(model, rules).param_groups(), lr=0.05)

    check_optimizer(make, model)


def test_grouped_axes_obey_the_laws():
    check_optimizer(
        lambda model: SFW(
            [{"params": list(model.named_parameters()), "region": spectral_k_support_ball(1, 1.0, Axes(groups=2))}],
            lr=0.05,
        ),
        lambda: nn.Conv2d(4, 6, 3, groups=2),
    )


def test_sgd_of_torch_obeys_the_laws_but_takes_nan():
    def make(model):
        return SGD(model.named_parameters(), lr=0.1, momentum=0.9)

    check_optimizer(make, laws=[law for law in OPTIMIZER_LAWS if law is not finite.nonfinite_gradients_touch_nothing])
    with pytest.raises(LawViolation, match="touches nothing"):
        check_optimizer(make, laws=[finite.nonfinite_gradients_touch_nothing])


def test_short_runs_are_refused():
    with pytest.raises(ValueError, match=r"steps must be at least 4, found 2"):
        check_optimizer(lambda model: SGD(model.parameters(), lr=0.1), steps=2)


class Frozen(SFW):
    def step(self, closure=None):
        return None if closure is None else closure()


class Unclamped(SFW):
    def step(self, closure=None):
        del closure
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    p.data.add_(p.grad, alpha=-group["lr"])


class Coasting(SGD):
    """Follows its momentum, gradient or not."""

    def __init__(self, groups, lr):
        super().__init__([group for group in groups if group.pop("region")], lr=lr, momentum=0.9)


class Neighbour(SFW):
    """Collects gradients without those that are None and hands them out to the first parameters."""

    @torch.no_grad()
    def step(self, closure=None):
        del closure
        for group in self.param_groups:
            vertices = [group["region"].lmo(p.grad.clone()) for p in group["params"] if p.grad is not None]
            for p, vertex in zip(group["params"], vertices, strict=False):
                p.lerp_(vertex.reshape(-1)[0].expand_as(p), 0.1)


class Deaf(SFW):
    """Keeps the rate it was born with."""

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            group["lr"] = self.defaults["lr"]
        return super().step(closure)


class Hidden(SFW):
    """Saves no state."""

    def state_dict(self):
        return super().state_dict() | {"state": {}}


class Live(SFW):
    """Saves live objects."""

    def state_dict(self):
        return torch.optim.Optimizer.state_dict(self)


class Loud(SFW):
    def step(self, closure=None):
        torch.rand(())
        return super().step(closure)


class Greedy(SFW):
    def step(self, closure=None):
        loss = super().step(closure)
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    p.grad.mul_(2)
        return loss


class Twice(SFW):
    def step(self, closure=None):
        if closure is not None:
            closure()
        return super().step(closure)


class Ticking(SFW):
    """Counts steps without gradients."""

    def step(self, closure=None):
        loss = super().step(closure)
        for group in self.param_groups:
            group["lr"] *= 0.9
        return loss


BROKEN = [
    (Frozen, motion.weights_move),
    (Unclamped, motion.iterates_stay_feasible),
    (Unclamped, motion.huge_rates_stay_feasible),
    (Neighbour, motion.without_gradient_no_move),
    (Deaf, rates.schedulers_change_the_steps),
    (Hidden, state.resumed_is_uninterrupted),
    (Live, state.state_dict_is_plain),
    (Loud, habits.random_state_is_untouched),
    (Greedy, habits.gradients_are_untouched),
    (Twice, habits.closures_are_called_once),
    (Coasting, motion.frozen_weights_do_not_move),
    (Ticking, motion.empty_steps_leave_no_trace),
    (Unclamped, finite.nonfinite_gradients_touch_nothing),
]


@pytest.mark.parametrize(("broken", "law"), BROKEN, ids=lambda x: x.__name__)
def test_broken_optimizers_are_found(broken, law):
    def make(model):
        return broken([{"params": list(model.named_parameters()), "region": l2_ball(1.0)}], lr=0.05)

    with pytest.raises(LawViolation):
        check_optimizer(make, laws=[law])


def test_absent_parameters_and_parameters_without_gradient_are_alike():
    def run(keep):
        torch.manual_seed(0)
        model = small_model()
        named = [(n, p) for n, p in model.named_parameters() if keep or n != "0.bias"]
        optimizer = SFW([{"params": named, "region": l2_ball(1.0)}], lr=0.1)
        for step in range(5):
            for i, (name, p) in enumerate(model.named_parameters()):
                noise = torch.randn(p.shape, generator=torch.Generator().manual_seed(10 * step + i))
                p.grad = None if name == "0.bias" else noise
            optimizer.step()
        return dict(model.named_parameters())

    present, absent = run(True), run(False)
    assert all(torch.equal(present[name], absent[name]) for name in present)


@pytest.mark.parametrize("silent", [(0,), (1,), (2, 3)])
@pytest.mark.parametrize("p", [2.0, math.inf])
def test_what_rests_in_a_joint_point_leaves_the_rest_its_room(silent, p):
    torch.manual_seed(0)
    params = [nn.Parameter(torch.randn(4, 3)), *(nn.Parameter(torch.randn(4)) for _ in range(3))]
    region = Ball(TopK(2, p), Coupled((Filters(),) * 4), 3.0)
    with torch.no_grad():
        for q, new in zip(params, region.scale_into(params), strict=True):
            q.copy_(new)
    before = [q.detach().clone() for q in params]
    optimizer = SFW([{"params": params, "region": region}], lr=1.0, momentum=0.0, step_rule=Raw())
    for i, q in enumerate(params):
        q.grad = None if i in silent else torch.randn_like(q)
    optimizer.step()
    resting = [q if i in silent else torch.zeros_like(q) for i, q in enumerate(before)]
    room = 1.0 - float(region.value(resting)) / 3.0
    vertex = region.lmo([torch.zeros_like(q) if q.grad is None else q.grad for q in params])
    for i, (q, old, v) in enumerate(zip(params, before, vertex, strict=True)):
        torch.testing.assert_close(q.detach(), old if i in silent else room * v)
    assert region.contains([q.detach() for q in params], tol=1e-5)


def test_what_rests_in_a_joint_point_does_not_shorten_the_step():
    torch.manual_seed(0)
    weight, resting = nn.Parameter(0.1 * torch.randn(4, 3)), nn.Parameter(torch.full((4,), 20.0))
    region = Ball(Lp(2.0), Coupled((Filters(), Filters())), 100.0)
    optimizer = SFW([{"params": [weight, resting], "region": region}], lr=0.1, momentum=0.0)
    before, weight.grad = weight.detach().clone(), torch.randn(4, 3)
    optimizer.step()
    torch.testing.assert_close((weight - before).norm(), 0.1 * weight.grad.norm())
