"""RandomCut: its laws, its slow twin, and what it leaves alone."""

import copy
import pickle

import pytest
import torch
from fed import fed
from torch import nn
from torch.nn import functional as F
from torch.optim import SGD

from pliant.compress import FilterPruning, LowRank, PerLayer, Scheme, UnstructuredPruning
from pliant.methods import Operator, RandomCut, operator_of
from pliant.optim import SFW, NonFiniteGradientError
from pliant.structure import Plan
from pliant.testing import OPTIMIZER_LAWS, check_optimizer
from pliant.testing.optimizers import finite, habits
from pliant.testing.optimizers.case import small_model

CUTS = [FilterPruning(), LowRank(), LowRank(scheme=Scheme.SPATIAL), UnstructuredPruning()]
EXAMPLE = torch.zeros(2, 1, 6, 6)
always_cut = pytest.mark.filterwarnings("ignore:no fraction is 0")  # some tests want a cut in every step


def net():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 6, 3, bias=False),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Conv2d(6, 8, 3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32, 4),
    )


def plain_net():
    """Without statistics of a batch: the gradient of a batch is the mean of those of its parts."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(96, 4))


def batches(count):
    draws = torch.Generator().manual_seed(1)
    images = [torch.randn(16, 1, 6, 6, generator=draws) for _ in range(count)]
    return [(x, torch.randint(4, (16,), generator=draws)) for x in images]


def sgd(model):
    return SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-3)


def sfw(model):
    return SFW(Plan.for_filters(model, k=0.3, example=EXAMPLE).param_groups(), lr=0.05, momentum=0.9)


def around(model, compressor, *fractions, seed=0, start=0, inner=sgd):
    return RandomCut(inner(model), model, [operator_of(compressor, model, EXAMPLE)], fractions, seed=seed, start=start)


def learn(model, optimizer, data):
    for x, y in data:

        def closure(x=x, y=y):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            return loss.item()

        optimizer.step(closure)
    return model


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


@pytest.mark.parametrize("inner", [sgd, sfw])
@pytest.mark.parametrize("compressor", CUTS, ids=repr)
def test_at_fraction_zero_it_is_the_inner_optimizer_to_the_bit(compressor, inner):
    model, plain = net(), net()
    learn(model, around(model, compressor, 0.0, inner=inner), batches(4))
    assert same(model, learn(plain, inner(plain), batches(4)))


@always_cut
def test_until_it_starts_it_is_the_inner_optimizer_and_then_it_cuts_as_it_would_without():
    data = batches(8)
    plain, late, twin = net(), net(), net()
    optimizer = around(late, FilterPruning(), 0.5, start=4)
    assert same(learn(late, optimizer, data[:4]), learn(plain, sgd(plain), data[:4]))
    always = around(twin, FilterPruning(), 0.5)
    twin.load_state_dict(late.state_dict())
    always.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert same(learn(late, optimizer, data[4:]), learn(twin, always, data[4:]))
    assert not same(late, learn(plain, sgd(plain), data[4:]))


@pytest.mark.parametrize("inner", [sgd, sfw])
@pytest.mark.parametrize("compressor", CUTS, ids=repr)
def test_it_is_the_slow_twin(compressor, inner):
    data = batches(4)
    model, twin = net(), net()
    optimizer = around(model, compressor, 0.0, 0.3, 0.6, seed=5, inner=inner)
    fractions = []
    (operator,) = optimizer.operators
    compress = operator.compress
    object.__setattr__(operator, "compress", lambda f: (fractions.append(f), compress(f))[1])
    stepper = inner(twin)
    for x, y in data:
        before = len(fractions)
        learn(model, optimizer, [(x, y)])
        fraction = fractions[-1] if len(fractions) > before else 0.0
        copied = copy.deepcopy(twin)
        gates = operator_of(compressor, copied, EXAMPLE).compress(fraction) if fraction else {}
        cut = (
            twin
            if not fraction
            else compressor.truncate(copy.deepcopy(twin), compressor.select(twin, fraction, example=EXAMPLE)).train()
        )
        grads = torch.autograd.grad(F.cross_entropy(cut(x), y), list(cut.parameters()))
        for p, owner, grad in zip(twin.parameters(), copied.parameters(), grads, strict=True):
            p.grad = gates[owner](grad) if owner in gates else grad
        stepper.step()
    assert fractions
    for a, b in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def learn_without_closures(model, optimizer, data, parts=1):
    for x, y in data:
        optimizer.begin()
        for images, labels in zip(x.chunk(parts), y.chunk(parts), strict=True):
            (F.cross_entropy(model(images), labels) / parts).backward()
        optimizer.step()
        optimizer.zero_grad()
    return model


@pytest.mark.parametrize("inner", [sgd, sfw])
@pytest.mark.parametrize("compressor", CUTS, ids=repr)
def test_without_closures_it_is_the_same_to_the_bit(compressor, inner):
    data = batches(6)
    model, twin = net(), net()
    fractions = (0.0, 0.3, 0.6)
    learn(model, around(model, compressor, *fractions, inner=inner), data)
    assert same(model, learn_without_closures(twin, around(twin, compressor, *fractions, inner=inner), data))


def test_gradients_of_several_batches_are_all_those_of_one_cut():
    data = batches(4)
    model, twin = plain_net(), plain_net()
    learn_without_closures(model, around(model, FilterPruning(), 0.3, 0.6), data)
    learn_without_closures(twin, around(twin, FilterPruning(), 0.3, 0.6), data, parts=4)
    for a, b in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@always_cut
def test_between_begin_and_step_the_model_is_the_cut_one_and_restore_ends_that():
    model = net()
    whole = copy.deepcopy(model)
    optimizer = around(model, FilterPruning(), 0.5)
    cut = FilterPruning().truncate(whole, FilterPruning().select(whole, 0.5, example=EXAMPLE))
    for _ in range(2):  # a step in between may have been skipped
        assert optimizer.begin() == 0.5
        assert all(torch.equal(a, b) for a, b in zip(model.parameters(), cut.parameters(), strict=True))
        assert not same(model, whole)
    model(torch.randn(4, 1, 6, 6))
    optimizer.restore()
    assert same(model, whole)
    optimizer.restore()
    assert same(model, whole)
    with pytest.raises(ValueError, match="call begin"):
        optimizer.step()


@pytest.mark.parametrize("compressor", CUTS, ids=repr)
def test_in_a_pause_the_model_is_whole_and_the_step_goes_on_with_its_cut(compressor):
    data = batches(4)
    model, twin = net(), net()
    optimizer = around(model, compressor, 0.0, 0.3, 0.6)
    other = around(twin, compressor, 0.0, 0.3, 0.6)
    for x, y in data:
        whole = copy.deepcopy(model.state_dict())
        fraction = optimizer.begin()
        F.cross_entropy(model(x), y).backward()
        cut = copy.deepcopy(model)
        for _ in range(2):
            optimizer.pause()
            assert not optimizer.begun
            assert all(torch.equal(p, whole[name]) for name, p in model.named_parameters())
            optimizer.state_dict()
        assert optimizer.begin() == fraction
        assert same(model, cut)
        optimizer.pause()  # a step can be taken from here
        optimizer.step()
        optimizer.zero_grad()
        learn_without_closures(twin, other, [(x, y)])
        assert same(model, twin)
    optimizer.pause()
    assert same(model, twin)


@always_cut
def test_what_is_paused_can_be_restored_and_a_closure_ends_a_pause():
    first, second = batches(2)
    model, twin = plain_net(), plain_net()
    whole = copy.deepcopy(model)
    optimizer = around(model, FilterPruning(), 0.5)
    optimizer.begin()
    optimizer.pause()
    optimizer.restore()
    assert same(model, whole)
    with pytest.raises(ValueError, match="call begin"):
        optimizer.step()
    optimizer.begin()
    optimizer.pause()
    learn(model, optimizer, [first, second])
    learn(twin, around(twin, FilterPruning(), 0.5), [first, second])
    assert same(model, twin)


@pytest.mark.parametrize("compressor", CUTS, ids=repr)
def test_a_loop_under_autocast_is_the_one_without_its_cache(compressor):
    models = [net(), net()]
    for model, cached in zip(models, (True, False), strict=True):
        with torch.autocast("cpu", torch.bfloat16, cache_enabled=cached):
            optimizer = around(model, compressor, 0.0, 0.3, 0.6)
            learn(model, optimizer, batches(3))
            learn_without_closures(model, optimizer, batches(3))
    assert same(*models)


@always_cut
def test_under_autocast_the_model_is_cut_paused_and_restored():
    model, x = plain_net(), torch.randn(4, 1, 6, 6)
    optimizer = around(model, LowRank(), 0.7)
    with torch.autocast("cpu", torch.bfloat16):
        whole = model(x)
        optimizer.begin()
        cut = model(x)
        assert (cut - whole).norm() > 0.1 * whole.norm()
        optimizer.pause()
        assert torch.equal(model(x), whole)
        optimizer.begin()
        assert torch.equal(model(x), cut)
        optimizer.restore()
        assert torch.equal(model(x), whole)


def test_a_closure_after_begin_is_evaluated_at_the_cut_that_begin_has_made():
    first, second = batches(2)
    model, twin = plain_net(), plain_net()
    optimizer = around(model, FilterPruning(), 0.3, 0.6)
    optimizer.begin()
    (F.cross_entropy(model(first[0]), first[1]) / 2).backward()

    def closure():
        loss = F.cross_entropy(model(second[0]), second[1]) / 2
        loss.backward()
        return loss.item()

    optimizer.step(closure)
    both = (torch.cat([first[0], second[0]]), torch.cat([first[1], second[1]]))
    learn(twin, around(twin, FilterPruning(), 0.3, 0.6), [both])
    for a, b in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@always_cut
def test_what_is_set_aside_is_neither_lost_in_a_copy_nor_put_over_what_was_loaded():
    model = net()
    optimizer = around(model, FilterPruning(), 0.5)
    learn(model, optimizer, batches(1))
    saved = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    optimizer.begin()
    assert optimizer.begun
    for save in (optimizer.state_dict, lambda: copy.deepcopy(optimizer), lambda: pickle.dumps(optimizer)):
        with pytest.raises(RuntimeError, match=r"call step\(\), pause\(\) or restore\(\) first"):
            save()
    other = net()
    with torch.no_grad():
        next(other.parameters()).add_(1.0)
    model.load_state_dict(other.state_dict())
    optimizer.load_state_dict(saved[1])
    assert not optimizer.begun
    optimizer.begin()
    optimizer.restore()
    assert same(model, other)


def test_every_operator_and_every_fraction_is_drawn_equally_often():
    class Counted(Operator):
        def __init__(self):
            self.fractions = []

        def compress(self, fraction):
            self.fractions.append(fraction)
            return {}

    model, operators = nn.Linear(2, 2), [Counted(), Counted()]
    optimizer = RandomCut(SGD(model.parameters(), lr=0.1), model, operators, (0.0, 0.3, 0.6), seed=2)
    learn(model, optimizer, [(torch.ones(1, 2), torch.zeros(1, dtype=torch.long))] * 600)
    for operator in operators:
        assert all(70 < operator.fractions.count(fraction) < 130 for fraction in (0.3, 0.6))
        assert 0.0 not in operator.fractions


def test_running_statistics_see_the_whole_model_alone():
    model = net()
    with pytest.warns(UserWarning, match=r"statistics .* those of '1' are never updated"):
        optimizer = around(model, FilterPruning(), 0.5)
    learn(model, optimizer, batches(2))
    assert int(model[1].num_batches_tracked) == 0
    learn(model, around(model, FilterPruning(), 0.0), batches(2))
    assert int(model[1].num_batches_tracked) == 2


def test_only_running_statistics_that_are_tracked_are_warned_of():
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4, track_running_stats=False), nn.Conv2d(4, 4, 3))
    around(model, LowRank(), 0.5)
    two = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4))
    with pytest.warns(UserWarning, match="those of '1' and 1 more norm layers are never updated"):
        around(two, LowRank(), 0.3, 0.5)


@pytest.mark.parametrize("compressor", CUTS, ids=repr)
def test_a_resumed_run_is_the_uninterrupted_one(compressor):
    data = batches(6)
    whole, model, resumed = net(), net(), net()
    learn(whole, around(whole, compressor, 0.0, 0.3, 0.6, seed=3), data)
    optimizer = around(model, compressor, 0.0, 0.3, 0.6, seed=3)
    learn(model, optimizer, data[:3])
    resumed.load_state_dict(model.state_dict())
    again = around(resumed, compressor, 0.0, 0.3, 0.6, seed=3)
    again.load_state_dict(optimizer.state_dict())
    assert same(whole, learn(resumed, again, data[3:]))


@always_cut
def test_it_obeys_the_laws_of_optimizers():
    def make(model):
        # Under a global scope the weights of one layer decide about those of another.
        operator = operator_of(UnstructuredPruning(scope=PerLayer()), model, torch.zeros(2, 2, 3, 3))
        return fed(RandomCut)(
            SGD(model.named_parameters(), lr=0.1, momentum=0.9), model, [operator], (0.2, 0.5, 0.8), seed=1
        )

    left_out = {
        finite.nonfinite_gradients_touch_nothing,  # as torch's SGD
        habits.added_groups_are_alone,  # they are of another model, which the operator does not compress
    }
    check_optimizer(make, small_model, laws=[law for law in OPTIMIZER_LAWS if law not in left_out])


@pytest.mark.parametrize("inner", [sgd, sfw])
def test_one_checkpoint_bears_every_cut_better_than_one_trained_without(inner):
    torch.manual_seed(0)
    centres = torch.randn(4, 1, 6, 6)
    y = torch.arange(256) % 4
    x = centres[y] + 0.7 * torch.randn(256, 1, 6, 6)

    def losses(*fractions):
        model = net()
        learn(model, around(model, FilterPruning(), *fractions, inner=inner), [(x, y)] * 80)
        cuts = [FilterPruning().select(model, fraction, example=EXAMPLE) for fraction in (0.4, 0.7)]
        return [F.cross_entropy(FilterPruning().truncate(model, cut).train()(x), y).item() for cut in cuts]

    assert all(a < 0.7 * b for a, b in zip(losses(0.0, 0.4, 0.7), losses(0.0), strict=True))


@always_cut
def test_a_failing_pass_leaves_the_weights_as_they_were():
    model = net()
    before = copy.deepcopy(model.state_dict())
    optimizer = around(model, FilterPruning(), 0.5)

    def failing():
        raise InterruptedError

    with pytest.raises(InterruptedError):
        optimizer.step(failing)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert optimizer.taken == 0


@always_cut
def test_where_the_inner_optimizer_fails_the_gradients_are_those_of_the_pass():
    model = net()
    optimizer = around(model, UnstructuredPruning(), 0.8, inner=sfw)
    optimizer.begin()
    ((x, y),) = batches(1)
    F.cross_entropy(model(x), y).backward()
    model[0].weight.grad[0] = torch.nan
    grads = [p.grad.clone() for p in model.parameters()]
    with pytest.raises(NonFiniteGradientError):
        optimizer.step()
    torch.testing.assert_close([p.grad for p in model.parameters()], grads, rtol=0, atol=0, equal_nan=True)
    assert optimizer.taken == 0


@always_cut
def test_what_cannot_be_is_refused():
    model = net()
    with pytest.raises(ValueError, match=r"cuts the model before its gradient is taken: call begin\(\)"):
        around(model, LowRank(), 0.5).step()
    with pytest.raises(ValueError, match="operators must be at least one"):
        RandomCut(sgd(model), model, [], (0.5,))
    with pytest.raises(ValueError, match="at least one fraction"):
        around(model, LowRank())
    with pytest.raises(ValueError, match="0 <= fraction < 1"):
        around(model, LowRank(), 1.0)
    with pytest.raises(ValueError, match="start must be a number of steps, at least 0, found -1"):
        around(model, LowRank(), 0.5, start=-1)
    with pytest.raises(ValueError, match="must be that of a RandomCut, found one with state, param_groups"):
        around(model, LowRank(), 0.5).load_state_dict(sgd(model).state_dict())
