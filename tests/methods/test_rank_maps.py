"""Maps that make weights low-rank after or around every step: spectral decay, trained ranks, dynamical low rank."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.optim import SGD, Adam
from torch.optim.lr_scheduler import LambdaLR

from pliant.methods import Around, DynamicRank, SpectralDecay, Target, TrainedRank, matrix_targets
from pliant.methods.trained_rank import truncated
from pliant.regions import Axes
from pliant.testing import OPTIMIZER_LAWS, check_optimizer
from pliant.testing.optimizers import finite, habits

MAPS = {
    "decay": lambda targets: SpectralDecay(targets, 0.3),
    "trained rank": lambda targets: TrainedRank(targets, every=2, energy=0.9, nuclear=0.01),
    "dynamic rank": lambda targets: DynamicRank(targets, 0.2),
    "fixed rank": lambda targets: DynamicRank(targets, 0.0, largest=0.5),
}
LEFT_OUT = {
    finite.nonfinite_gradients_touch_nothing,  # as torch's SGD
    habits.added_groups_are_alone,  # a map keeps to its own targets
}
TRUNCATING = {"rate_zero_moves_nothing"}  # a truncation moves weights at any rate


def net():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, groups=2),
        nn.Flatten(),
        nn.Linear(32, 4),
    )


def batch(step):
    draws = torch.Generator().manual_seed(step)
    x = torch.randn(32, 1, 6, 6, generator=draws)
    return x, x.flatten(1)[:, :4].argmax(1)


def train(model, optimizer, steps, first=0):
    losses = []
    for step in range(first, first + steps):
        x, y = batch(step)
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def around(model, make, **options):
    sgd = SGD(model.parameters(), **({"lr": 0.1, "momentum": 0.9, "weight_decay": 1e-3} | options))
    return Around(sgd, [make(matrix_targets(model, last=True))])


@pytest.mark.parametrize("kind", MAPS)
def test_the_laws_of_optimizers_hold(kind):
    def make(model):
        targets = matrix_targets(model, last=True)
        return Around(SGD(model.named_parameters(), lr=0.05, momentum=0.5), [MAPS[kind](targets)])

    out = LEFT_OUT | ({habits.gradients_are_untouched} if kind == "trained rank" else set())
    laws = [law for law in OPTIMIZER_LAWS if law not in out]
    check_optimizer(make, laws=[law for law in laws if kind == "decay" or law.__name__ not in TRUNCATING])


@pytest.mark.parametrize("kind", MAPS)
def test_a_resumed_run_is_the_uninterrupted_one(kind):
    whole = net()
    train(whole, around(whole, MAPS[kind]), 6)
    model = net()
    optimizer = around(model, MAPS[kind])
    train(model, optimizer, 3)
    resumed = net()
    resumed.load_state_dict(model.state_dict())
    again = around(resumed, MAPS[kind])
    again.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    train(resumed, again, 3, first=3)
    pairs = zip(whole.state_dict().values(), resumed.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def one(weight, make, lr=0.1, **options):
    p = nn.Parameter(weight.clone())
    target = Target("w", p, options.pop("axes", Axes()))
    return p, Around(SGD([p], lr=lr, **options), [make((target,))])


def test_spectral_decay_lowers_every_singular_value_alike():
    torch.manual_seed(0)
    left, _, right = torch.linalg.svd(torch.randn(6, 4, dtype=torch.float64), full_matrices=False)
    values = torch.tensor([5.0, 2.0, 1.0, 0.4], dtype=torch.float64)
    p, optimizer = one(left * values @ right, lambda t: SpectralDecay(t, 0.7), lr=0.2)
    p.grad = torch.zeros_like(p)
    optimizer.step()
    expected = left * (values - 0.2 * 0.7) @ right
    torch.testing.assert_close(p.detach(), expected, rtol=0, atol=1e-6)


def test_spectral_decay_is_the_slow_twin_on_layers_of_all_kinds():
    model = net()
    twin = copy.deepcopy(model)
    optimizer = around(model, lambda t: SpectralDecay(t, 0.5))
    inner = SGD(twin.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-3)
    for step in range(3):
        train(model, optimizer, 1, first=step)
        train(twin, inner, 1, first=step)
        with torch.no_grad():
            for layer, groups in ((twin[0], 1), (twin[3], 2), (twin[5], 1)):
                for block in layer.weight.chunk(groups):
                    left, _, right = torch.linalg.svd(block.flatten(1), full_matrices=False)
                    block.sub_(0.1 * 0.5 * (left @ right).view_as(block))
    for a, b in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


def test_spectral_decay_follows_the_schedule():
    p, optimizer = one(torch.eye(3), lambda t: SpectralDecay(t, 1.0), lr=0.1)
    scheduler = LambdaLR(optimizer, lambda step: 0.5**step)
    for _ in range(3):
        p.grad = torch.zeros_like(p)
        optimizer.step()
        scheduler.step()
    torch.testing.assert_close(p.detach(), (1 - 0.1 * 1.75) * torch.eye(3))


def test_spectral_decay_lowers_the_nuclear_norm_and_leaves_zero_and_16_bits_sound():
    model, plain = net(), net()
    train(model, around(model, lambda t: SpectralDecay(t, 0.3)), 30)
    train(plain, SGD(plain.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-3), 30)

    def nuclear(m):
        return sum(float(torch.linalg.svdvals(p.detach().flatten(1)).sum()) for p in m.parameters() if p.ndim > 1)

    assert nuclear(model) < 0.8 * nuclear(plain)
    for dtype in (torch.float32, torch.bfloat16):
        p, optimizer = one(torch.zeros(3, 2, dtype=dtype), lambda t: SpectralDecay(t, 1.0))
        p.grad = torch.zeros_like(p)
        optimizer.step()
        assert not p.any()


def test_spectral_decay_goes_around_adam():
    model = net()
    optimizer = Around(Adam(model.parameters(), lr=1e-2), [SpectralDecay(matrix_targets(model), 1.0)])
    losses = train(model, optimizer, 30)
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("energy", [0.5, 0.9, 0.99, 1.0])
def test_truncation_keeps_the_fewest_values_of_an_energy(energy):
    torch.manual_seed(0)
    matrices = torch.randn(3, 5, 7, dtype=torch.float64)
    found = truncated(matrices, energy)
    for matrix, left, values, right in zip(matrices, *found, strict=True):
        s = torch.linalg.svdvals(matrix)
        shares = s.square().cumsum(0) / s.square().sum()
        rank = 5 if energy == 1.0 else next(r for r in range(1, 6) if shares[r - 1] >= energy)
        assert int((values > 0).sum()) == rank
        error = (matrix - left * values @ right).norm()
        torch.testing.assert_close(error, s[rank:].norm(), rtol=1e-9, atol=1e-9)


def test_trained_rank_is_the_slow_twin():
    torch.manual_seed(0)
    p, optimizer = one(torch.randn(6, 4).double(), lambda t: TrainedRank(t, every=2, energy=0.8, nuclear=0.05))
    w = p.detach().clone()
    for step in range(1, 7):
        grad = torch.randn(6, 4, dtype=torch.float64)
        p.grad = grad.clone()
        optimizer.step()
        if step % 2 == 0:
            left, values, right, rank = cut(w, 0.8)
            grad = grad + 0.05 * left[:, :rank] @ right[:rank]
        w = w - 0.1 * grad
        if step % 2 == 0:
            left, values, right, rank = cut(w, 0.8)
            w = left[:, :rank] * values[:rank] @ right[:rank]
    torch.testing.assert_close(p.detach(), w, rtol=0, atol=1e-10)


def cut(w, energy):
    left, values, right = torch.linalg.svd(w, full_matrices=False)
    shares = values.square().cumsum(0) / values.square().sum()
    return left, values, right, next(r for r in range(1, len(values) + 1) if shares[r - 1] >= energy)


def test_trained_rank_with_full_energy_and_no_penalty_is_the_inner_optimizer():
    torch.manual_seed(0)
    weight = torch.randn(5, 4, dtype=torch.float64)
    p, optimizer = one(weight, lambda t: TrainedRank(t, energy=1.0, nuclear=0.0))
    q = nn.Parameter(weight.clone())
    inner = SGD([q], lr=0.1)
    for _ in range(4):
        p.grad = torch.randn_like(p)
        q.grad = p.grad.clone()
        optimizer.step()
        inner.step()
    torch.testing.assert_close(p, q, rtol=0, atol=1e-12)


class Factored(nn.Module):
    """W = U S V^T with any of the three as the parameter, for the slow twin of DLRT."""

    def __init__(self, left, core, right):
        super().__init__()
        self.left, self.core, self.right = left, core, right

    def loss(self, parameter, weight):
        x = torch.linspace(-1.0, 1.0, 5 * weight.shape[1], dtype=weight.dtype).view(5, -1)
        return (x @ weight.mT).tanh().square().sum() + 0.3 * weight.sum() + 0.0 * parameter.sum()

    def gradient(self, parameter, weight_of):
        leaf = parameter.detach().clone().requires_grad_()
        return torch.autograd.grad(self.loss(leaf, weight_of(leaf)), leaf)[0]


def test_one_gradient_serves_the_three_substeps_of_dlrt():
    """The twin differentiates the loss anew with respect to K, to L and to S, as the published algorithm does."""
    torch.manual_seed(0)
    rate, tolerance = 0.1, 0.3
    left, right = (torch.linalg.qr(torch.randn(n, 2, dtype=torch.float64))[0] for n in (8, 9))
    core = torch.diag(torch.tensor([3.0, 0.8], dtype=torch.float64))
    p, optimizer = one(left @ core @ right.mT, lambda t: DynamicRank(t, tolerance), lr=rate)
    optimizer.memory[0]["w"] = {"left": left[None].clone(), "right": right[None].clone()}
    ranks = []
    for _ in range(6):
        p.grad = None
        Factored(left, core, right).loss(p, p).backward()
        optimizer.step()
        twin = Factored(left, core, right)
        k = left @ core - rate * twin.gradient(left @ core, lambda k, right=right: k @ right.mT)
        ell = right @ core.mT - rate * twin.gradient(right @ core.mT, lambda ell, left=left: left @ ell.mT)
        left1, right1 = (torch.linalg.qr(torch.cat(pair, 1))[0] for pair in ((k, left), (ell, right)))
        start = left1.mT @ left @ core @ right.mT @ right1
        s = start - rate * twin.gradient(start, lambda s, a=left1, b=right1: a @ s @ b.mT)
        u, values, v = torch.linalg.svd(s)
        rank = next(r for r in range(1, 5) if r == 4 or values[r:].norm() <= tolerance * values.norm())
        left, core, right = left1 @ u[:, :rank], torch.diag(values[:rank]), right1 @ v[:rank].mT
        torch.testing.assert_close(p.detach(), left @ core @ right.mT, rtol=0, atol=1e-10)
        ranks.append(rank)
    assert len(set(ranks)) > 1  # otherwise the truncation was not tried


@pytest.mark.parametrize("kind", ["dynamic rank", "fixed rank"])
def test_bases_of_dlrt_stay_orthonormal_and_span_the_weights(kind):
    model = net()
    optimizer = around(model, MAPS[kind], momentum=0.1)
    losses = train(model, optimizer, 40)
    for target in optimizer.maps[0].targets:
        bases = optimizer.memory[0][target.name]
        for basis in bases.values():
            gram = basis.mT @ basis
            torch.testing.assert_close(gram, torch.eye(gram.shape[-1]).expand_as(gram), rtol=0, atol=1e-5)
        w = target.matrices()
        inside = bases["left"] @ (bases["left"].mT @ w @ bases["right"]) @ bases["right"].mT
        torch.testing.assert_close(inside, w, rtol=1e-4, atol=1e-5)
    assert max(losses) < 5.0
    assert sum(losses[-5:]) < sum(losses[:5])


def test_the_rank_of_dlrt_adapts_to_the_tolerance_and_to_the_problem():
    torch.manual_seed(0)
    truth = torch.randn(10, 2).double() @ torch.randn(2, 8).double()

    def fitted(tolerance):
        p, optimizer = one(
            torch.randn(10, 8, generator=torch.Generator().manual_seed(1)).double(), lambda t: DynamicRank(t, tolerance)
        )
        for _ in range(400):
            p.grad = p.detach() - truth
            optimizer.step()
        return p.detach(), optimizer.memory[0]["w"]["left"].shape[-1]

    found, rank = fitted(0.01)
    assert rank == 2
    torch.testing.assert_close(found, truth, rtol=0, atol=0.05 * float(truth.norm()))
    assert fitted(0.9)[1] == 1


def test_a_rank_that_is_too_small_grows_again():
    torch.manual_seed(0)
    truth = torch.diag(torch.tensor([4.0, 3.0, 2.0, 1.0], dtype=torch.float64))
    start = torch.zeros(4, 4, dtype=torch.float64)
    start[0, 0] = 4.0
    p, optimizer = one(start, lambda t: DynamicRank(t, 0.01))
    optimizer.memory[0]["w"] = {side: torch.eye(4, 1, dtype=torch.float64)[None] for side in ("left", "right")}
    ranks = []
    for _ in range(200):
        p.grad = p.detach() - truth
        optimizer.step()
        ranks.append(optimizer.memory[0]["w"]["left"].shape[-1])
    assert ranks[:3] == [2, 4, 4]
    torch.testing.assert_close(p.detach(), truth, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SpectralDecay((), -1.0), "weight must be at least 0"),
        (lambda: SpectralDecay((), math.nan), "weight must be at least 0"),
        (lambda: TrainedRank((), every=0), "at least 1"),
        (lambda: TrainedRank((), energy=0.0), "0 < energy <= 1"),
        (lambda: TrainedRank((), nuclear=-1.0), "nuclear must be at least 0"),
        (lambda: DynamicRank((), 1.0), "0 <= tolerance < 1"),
        (lambda: DynamicRank((), largest=0.0), "0 < largest <= 1"),
    ],
)
def test_numbers_out_of_range_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
