"""CrAM: its laws, its slow twin, and what it leaves alone."""

import copy

import pytest
import torch
import torch.distributed as dist
from fed import fed
from torch import nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel
from torch.optim import SGD

from pliant.compress import (
    L1,
    Both,
    Energy,
    FilterPruning,
    Folded,
    Global,
    LowRank,
    PerLayer,
    Scheme,
    UnstructuredPruning,
)
from pliant.methods import Around, SpectralDecay, matrix_targets
from pliant.methods.cram import CrAM, Cramming
from pliant.methods.operators import operator_of
from pliant.testing import OPTIMIZER_LAWS, check_optimizer
from pliant.testing.optimizers import finite, habits
from pliant.testing.optimizers.case import small_model

COMPRESSORS = [
    FilterPruning(),
    FilterPruning(score=L1(), scope=Global()),
    FilterPruning(score=Folded(), round_to=2),
    LowRank(),
    LowRank(rule=Energy(), minimum=2),
    LowRank(scheme=Scheme.SPATIAL),
    UnstructuredPruning(),
    UnstructuredPruning(scope=PerLayer(), ignore=("features.0.*",)),
    Both(),
]
CUTS = [FilterPruning(), LowRank(), UnstructuredPruning()]


def net():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 6, 3, bias=False),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Conv2d(6, 8, 3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32, 10),
        nn.ReLU(),
        nn.Linear(10, 4),
    )


def batches(count):
    draws = torch.Generator().manual_seed(1)
    images = [torch.randn(16, 1, 6, 6, generator=draws) for _ in range(count)]
    return [(x, torch.randint(4, (16,), generator=draws)) for x in images]


EXAMPLE = torch.zeros(2, 1, 6, 6)


def closure_of(model, optimizer, x, y):
    def closure():
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        return loss.item()

    return closure


def trained(steps, wrap, data=None, **sgd):
    model = net()
    optimizer = wrap(SGD(model.parameters(), **({"lr": 0.1, "momentum": 0.9, "weight_decay": 1e-3} | sgd)), model)
    for x, y in data or batches(steps):
        optimizer.step(closure_of(model, optimizer, x, y))
    return model, optimizer


def cram(compressor, *fractions, **options):
    return lambda inner, model: CrAM(
        inner, model, operator_of(compressor, model, EXAMPLE), Cramming(fractions, **options)
    )


def same(a, b):
    pairs = zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    return all(torch.equal(x, y) for x, y in pairs)


@pytest.mark.parametrize("fraction", [0.0, 0.3, 0.8])
@pytest.mark.parametrize("compressor", COMPRESSORS, ids=repr)
def test_the_fast_operator_does_what_select_and_truncate_do(compressor, fraction):
    model = net()
    operator = operator_of(compressor, model, EXAMPLE)
    with torch.no_grad():  # a perturbation: the operator must not remember the weights that it was made with
        for p in model.parameters():
            p.add_(0.3 * torch.randn_like(p))
    expected = compressor.truncate(model, compressor.select(model, fraction, example=EXAMPLE))
    operator.compress(fraction)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), expected.parameters(), strict=True))


@pytest.mark.parametrize("compressor", [FilterPruning(), UnstructuredPruning(), Both()], ids=repr)
def test_masked_gradients_are_zero_where_atoms_went(compressor):
    model = net()
    before = [p.detach().clone() for p in model.parameters()]
    gates = operator_of(compressor, model, EXAMPLE).compress(0.5)
    for p, old in zip(model.parameters(), before, strict=True):
        found = gates[p](torch.ones_like(p)) if p in gates else torch.ones_like(p)
        assert torch.equal(found == 0, (p == 0) & (old != 0)) or not old.any()


def test_the_gradient_of_a_rank_keeps_removed_atoms_at_zero_to_first_order():
    model = net().double()
    gates = operator_of(LowRank(), model, EXAMPLE.double()).compress(0.5)
    for p, gate in gates.items():
        matrix, grad = p.detach().flatten(1), torch.randn_like(p)
        rank = int(torch.linalg.matrix_rank(matrix))
        tangent = gate(grad)
        torch.testing.assert_close(gate(tangent), tangent)  # a projection
        assert float(((grad - tangent) * tangent).sum().abs()) < 1e-10  # an orthogonal one
        for size in (1e-3, 1e-4):
            beyond = torch.linalg.svdvals(matrix + size * tangent.flatten(1))[rank]
            assert float(beyond) < 50 * size**2


@pytest.mark.parametrize("share", [0.0, 0.3, 0.5, 1.0])
@pytest.mark.parametrize("compressor", CUTS, ids=repr)
def test_at_strength_zero_it_is_the_inner_optimizer_to_the_bit(compressor, share):
    plain, _ = trained(4, lambda inner, _: inner)
    for normalised in (False, True):
        zero, _ = trained(4, cram(compressor, 0.0, ascent=0.0, normalised=normalised, share=share))
        assert same(plain, zero)


def test_running_statistics_see_the_dense_model_alone():
    model = net()
    optimizer = cram(FilterPruning(), 0.5)(SGD(model.parameters(), lr=0.1), model)
    dense = copy.deepcopy(model)
    ((x, y),) = batches(1)
    optimizer.step(closure_of(model, optimizer, x, y))
    dense(x)
    assert all(torch.equal(a, b) for a, b in zip(model.buffers(), dense.buffers(), strict=True))
    assert int(model[1].num_batches_tracked) == 1


@pytest.mark.parametrize("normalised", [False, True])
@pytest.mark.parametrize("compressor", CUTS, ids=repr)
def test_it_is_the_slow_twin(compressor, normalised):
    data = batches(3)
    model, optimizer = trained(
        3, cram(compressor, 0.3, 0.6, ascent=0.2, normalised=normalised, share=0.4, seed=5), data
    )
    twin = net()
    inner = SGD(twin.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-3)
    for step, (x, y) in enumerate(data):
        g = torch.autograd.grad(F.cross_entropy(twin(x), y), list(twin.parameters()))
        norm = torch.sqrt(sum(one.square().sum() for one in g))
        moved = copy.deepcopy(twin)
        with torch.no_grad():
            for p, one in zip(moved.parameters(), g, strict=True):
                p.add_(0.2 * one / (norm if normalised else 1.0))
        fraction = optimizer.cramming.fraction(step)
        gates = operator_of(compressor, copied := copy.deepcopy(moved), EXAMPLE).compress(fraction)
        cut = compressor.truncate(moved, compressor.select(moved, fraction, example=EXAMPLE)).train()
        other = torch.autograd.grad(F.cross_entropy(cut(x), y), list(cut.parameters()))
        owners = list(copied.parameters())
        gated = [gates[p](one) if p in gates else one for p, one in zip(owners, other, strict=True)]
        for p, one, two in zip(twin.parameters(), g, gated, strict=True):
            p.grad = 0.6 * one + 0.4 * two
        inner.step()
    for a, b in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("compressor", CUTS, ids=repr)
def test_steps_under_autocast_are_those_without_its_cache(compressor):
    models = []
    for cached in (True, False):
        with torch.autocast("cpu", torch.bfloat16, cache_enabled=cached):
            models.append(trained(3, cram(compressor, 0.3, 0.6, ascent=0.2))[0])
    assert same(*models)


@pytest.fixture
def one_process():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("one_process")
def test_gradients_that_are_views_of_buckets_are_mixed_as_they_were():
    def trained_as(wrap):
        model = net()
        called = wrap(model)
        optimizer = cram(UnstructuredPruning(), 0.7)(SGD(model.parameters(), lr=0.1), model)
        for x, y in batches(3):
            optimizer.step(closure_of(called, optimizer, x, y))
        return model

    viewed = trained_as(lambda model: DistributedDataParallel(model, gradient_as_bucket_view=True))
    assert same(viewed, trained_as(lambda model: model))


@pytest.mark.parametrize("normalised", [False, True])
def test_sparse_gradients_of_embeddings_are_mixed_as_dense_ones(normalised):
    class Bag(nn.Module):
        def __init__(self, sparse):
            super().__init__()
            torch.manual_seed(0)
            self.words = nn.Embedding(12, 8, sparse=sparse)
            self.inner = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))

        def forward(self, words):
            return self.inner(self.words(words).mean(1))

    def trained_bag(sparse):
        model, words = Bag(sparse), torch.arange(20).reshape(4, 5) % 10
        operator = operator_of(UnstructuredPruning(), model, words)
        cramming = Cramming((0.5,), normalised=normalised, share=0.4)
        optimizer = CrAM(SGD(model.parameters(), lr=0.1), model, operator, cramming)
        for _ in range(3):
            optimizer.step(closure_of(model, optimizer, words, torch.arange(4) % 3))
        assert model.words.weight.grad.is_sparse == sparse
        return model

    for a, b in zip(trained_bag(sparse=True).parameters(), trained_bag(sparse=False).parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_it_obeys_the_laws_of_optimizers():
    def make(model):
        # Under a global scope the weights of one layer decide about those of another.
        operator = operator_of(UnstructuredPruning(scope=PerLayer()), model, torch.zeros(2, 2, 3, 3))
        inner = SGD(model.named_parameters(), lr=0.1, momentum=0.9)
        return fed(CrAM)(inner, model, operator, Cramming((0.2, 0.5, 0.8), seed=1))

    left_out = {
        finite.nonfinite_gradients_touch_nothing,  # as torch's SGD
        habits.closures_are_called_once,  # twice is what it is for
        habits.added_groups_are_alone,  # they are of another model, which the operator does not compress
    }
    check_optimizer(make, small_model, laws=[law for law in OPTIMIZER_LAWS if law not in left_out])


@pytest.mark.parametrize("compressor", CUTS, ids=repr)
def test_a_resumed_run_is_the_uninterrupted_one(compressor):
    data = batches(6)
    wrap = cram(compressor, 0.2, 0.5, 0.8, seed=3)
    whole, _ = trained(6, wrap, data)
    model, optimizer = trained(3, wrap, data[:3])
    resumed = net()
    resumed.load_state_dict(model.state_dict())
    again = wrap(SGD(resumed.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-3), resumed)
    again.load_state_dict(optimizer.state_dict())
    for x, y in data[3:]:
        again.step(closure_of(resumed, again, x, y))
    assert same(whole, resumed)


def test_it_goes_around_an_optimizer_with_maps():
    def wrap(inner, model):
        around = Around(inner, [SpectralDecay(matrix_targets(model), 0.5)])
        return CrAM(around, model, operator_of(LowRank(), model, EXAMPLE), Cramming((0.5,)))

    model, optimizer = trained(3, wrap)
    plain, _ = trained(3, cram(LowRank(), 0.5))
    assert optimizer.inner.taken == 3
    assert not same(model, plain)


def test_two_evaluations_a_step_and_the_dense_loss():
    model, losses = net(), []
    optimizer = cram(UnstructuredPruning(), 0.9)(SGD(model.parameters(), lr=0.1), model)
    ((x, y),) = batches(1)
    closure = closure_of(model, optimizer, x, y)

    def counted():
        losses.append(closure())
        return losses[-1]

    loss = optimizer.step(counted)
    assert len(losses) == 2
    assert loss == losses[0] != losses[1]


def test_every_fraction_is_drawn_equally_often():
    cramming = Cramming((0.0, 0.5, 0.9), seed=2)
    drawn = [cramming.fraction(step) for step in range(900)]
    assert all(250 < drawn.count(fraction) < 350 for fraction in cramming.fractions)
    assert drawn != [Cramming((0.0, 0.5, 0.9), seed=3).fraction(step) for step in range(900)]


def test_a_failing_second_pass_leaves_the_weights_as_they_were():
    model = net()
    before = copy.deepcopy(model.state_dict())
    optimizer = cram(FilterPruning(), 0.5)(SGD(model.parameters(), lr=0.1), model)
    ((x, y),) = batches(1)
    closure, calls = closure_of(model, optimizer, x, y), []

    def failing():
        if calls:
            raise InterruptedError
        calls.append(closure())

    with pytest.raises(InterruptedError):
        optimizer.step(failing)
    assert all(torch.equal(before[name], p) for name, p in model.named_parameters())


def test_training_with_cram_bears_the_cut_better_than_training_without():
    torch.manual_seed(0)
    centres = torch.randn(4, 1, 6, 6)
    y = torch.arange(256) % 4
    x = centres[y] + 0.7 * torch.randn(256, 1, 6, 6)

    def loss_after_cut(wrap):
        model, _ = trained(0, wrap, [(x, y)] * 60, lr=0.05, momentum=0.9)
        cut = UnstructuredPruning().select(model, 0.9, example=EXAMPLE)
        return F.cross_entropy(UnstructuredPruning().truncate(model.eval(), cut)(x), y).item()

    assert loss_after_cut(cram(UnstructuredPruning(), 0.9)) < 0.5 * loss_after_cut(lambda inner, _: inner)


def test_a_step_without_closure_is_refused():
    model = net()
    optimizer = cram(LowRank(), 0.5)(SGD(model.parameters(), lr=0.1), model)
    with pytest.raises(ValueError, match="evaluates the gradient twice a step"):
        optimizer.step()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fractions": ()}, "at least one fraction"),
        ({"fractions": (1.0,)}, "0 <= fraction < 1"),
        ({"fractions": (0.5,), "ascent": -1.0}, "ascent must be at least 0"),
        ({"fractions": (0.5,), "share": 1.5}, "share must be in"),
    ],
)
def test_numbers_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Cramming(**options)
