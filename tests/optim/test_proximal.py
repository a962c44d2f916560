"""ProximalSGD: the laws of optimizers, a slow twin, when the maps run, and in which order."""

import copy
from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.optim import SGD

from pliant.optim import ProximalSGD
from pliant.regions import Coupled, Entries, Filters, Penalty, Singular, SparseGroupLasso, TopK
from pliant.testing.optimizer_laws import OPTIMIZER_LAWS, check_optimizer
from pliant.testing.optimizers import finite, motion

GROUP, NUCLEAR = SparseGroupLasso(0.02, 0.3), Penalty(TopK(1), Singular(), 0.05)
LAWS = [law for law in OPTIMIZER_LAWS if law is not finite.nonfinite_gradients_touch_nothing]  # SGD has not this one


def penalised(model, penalties=(GROUP, NUCLEAR)):
    named = list(model.named_parameters())
    return [{"params": [pair], "penalties": penalties if pair[1].ndim > 1 else ()} for pair in named]


def matrix(seed=0):
    return torch.randn(6, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def soft(x, threshold):
    return x.sign() * (x.abs() - threshold).clamp_min(0)


def nuclear_twin(w, threshold):
    left, values, right = torch.linalg.svd(w, full_matrices=False)
    return left @ torch.diag(soft(values, threshold)) @ right


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
@pytest.mark.parametrize("every", [1, 3], ids=["every-step", "every-third"])
def test_the_laws_hold(law, every):
    def make(model):
        return ProximalSGD(penalised(model), lr=0.05, momentum=0.9, weight_decay=1e-3, prox_every=every)

    check_optimizer(make, laws=[law])


def test_frozen_weights_do_not_move():
    def make(model):
        return ProximalSGD(penalised(model), lr=0.05, momentum=0.9, weight_decay=1e-3)

    check_optimizer(make, laws=[motion.frozen_weights_do_not_move])


def test_without_penalties_it_is_sgd_to_the_bit():
    a, b = (nn.Parameter(matrix()) for _ in range(2))
    ours = ProximalSGD([a], lr=0.1, momentum=0.9, weight_decay=0.01, nesterov=True)
    torchs = SGD([b], lr=0.1, momentum=0.9, weight_decay=0.01, nesterov=True)
    for seed in range(5):
        a.grad, b.grad = matrix(seed + 1), matrix(seed + 1)
        ours.step()
        torchs.step()
    assert torch.equal(a, b)


@pytest.mark.parametrize("every", [1, 2, 3])
def test_it_is_its_slow_twin_under_a_schedule(every):
    w, lr, tau, momentum = nn.Parameter(matrix()), 0.1, 0.4, 0.9
    optimizer = ProximalSGD(
        [{"params": [w], "penalties": [Penalty(TopK(1), Singular(), tau)]}], lr=lr, momentum=momentum, prox_every=every
    )
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.7)
    slow, buffer = matrix(), torch.zeros(6, 5, dtype=torch.float64)
    for step in range(7):
        w.grad = matrix(step + 1)
        optimizer.step()
        scheduler.step()
        buffer = momentum * buffer + matrix(step + 1)
        slow = slow - lr * buffer
        if (step + 1) % every == 0:
            slow = nuclear_twin(slow, lr * tau)
        lr *= 0.7
    torch.testing.assert_close(w.detach(), slow)


def test_the_order_of_the_penalties_is_the_order_of_the_maps():
    filters = Penalty(TopK(1), Filters(), 1.0)
    rank = Penalty(TopK(1), Singular(), 1.0)
    results = []
    for penalties in ([filters, rank], [rank, filters]):
        w = nn.Parameter(matrix())
        optimizer = ProximalSGD([{"params": [w], "penalties": penalties}], lr=0.5, prox_every=None)
        optimizer.prox()
        results.append(w.detach())
        first, second = penalties
        torch.testing.assert_close(w.detach(), second.prox(first.prox(matrix(), 0.5), 0.5))
    assert not torch.allclose(*results)


def test_the_maps_wait_for_the_caller_where_they_have_no_period():
    w = nn.Parameter(matrix())
    optimizer = ProximalSGD([{"params": [w], "penalties": [NUCLEAR]}], lr=0.5, prox_every=None)
    w.grad = matrix(1)
    optimizer.step()
    torch.testing.assert_close(w.detach(), matrix() - 0.5 * matrix(1), rtol=0, atol=0)
    optimizer.prox()
    torch.testing.assert_close(w.detach(), nuclear_twin(matrix() - 0.5 * matrix(1), 0.5 * 0.05))


def test_a_parameter_without_gradient_does_not_count_its_steps():
    one, two = nn.Parameter(matrix()), nn.Parameter(matrix())
    group = {"params": [one, two], "penalties": [Penalty(TopK(1), Entries(), 0.1)], "prox_every": 2}
    optimizer = ProximalSGD([group], lr=0.0)
    optimizer.param_groups[0]["lr"] = 0.5
    for step in range(2):
        one.grad = torch.zeros_like(one)
        two.grad = torch.zeros_like(two) if step else None
        optimizer.step()
    torch.testing.assert_close(one.detach(), soft(matrix(), 0.05))
    assert torch.equal(two, matrix())


def test_the_objective_is_what_the_step_descends():
    """Loss plus penalty falls at every step, down to its minimum, which soft-thresholding the target gives at once."""
    target, tau = matrix(), 1.5
    w = nn.Parameter(torch.zeros_like(target))
    group = {"params": [w], "penalties": [Penalty(TopK(1), Singular(), tau)]}
    optimizer = ProximalSGD([group], lr=0.5, momentum=0.0)
    objectives = []
    for _ in range(60):
        objectives.append(float(0.5 * (w - target).square().sum().detach() + optimizer.penalty().detach()))
        w.grad = (w - target).detach()
        optimizer.step()
    assert all(after <= before + 1e-12 for before, after in pairwise(objectives))
    torch.testing.assert_close(w.detach(), nuclear_twin(target, tau))
    expected = tau * torch.linalg.svdvals(w.detach()).sum()
    torch.testing.assert_close(optimizer.penalty().detach(), expected)


def test_without_penalties_the_objective_is_the_loss():
    assert float(ProximalSGD([nn.Parameter(matrix())], lr=0.1).penalty()) == 0.0


def test_rank_and_filters_become_exactly_zero():
    w = nn.Parameter(matrix().float())
    with torch.no_grad():
        w[:2] *= 0.01
    ProximalSGD([{"params": [w], "penalties": [Penalty(TopK(1), Filters(), 1.0)]}], lr=0.3, prox_every=None).prox()
    assert torch.equal(w[:2], torch.zeros(2, 5))
    low = ProximalSGD([{"params": [w], "penalties": [Penalty(TopK(1), Singular(), 3.0)]}], lr=0.5, prox_every=None)
    low.prox()
    values = torch.linalg.svdvals(w.detach())
    assert 1 <= int((values > 1e-6 * values[0]).sum()) < 4


def test_coupled_penalties_take_the_parameters_of_a_group_together():
    layer = nn.Linear(4, 3)
    before = [p.detach().clone() for p in layer.parameters()]
    penalty = Penalty(TopK(1), Coupled((Filters(), Filters())), 0.5)
    optimizer = ProximalSGD([{"params": list(layer.parameters()), "penalties": [penalty]}], lr=0.4, prox_every=None)
    optimizer.prox()
    for new, old in zip(layer.parameters(), penalty.prox(before, 0.4), strict=True):
        torch.testing.assert_close(new.detach(), old)


def test_penalties_and_their_counters_survive_copies_and_new_groups_get_the_defaults():
    w = nn.Parameter(matrix())
    optimizer = ProximalSGD([w], lr=0.1, penalties=[NUCLEAR], prox_every=2)
    w.grad = matrix(1)
    optimizer.step()
    copied = copy.deepcopy(optimizer)
    copied.add_param_group({"params": [nn.Parameter(matrix(2))]})
    assert copied.param_groups[1]["penalties"] == (NUCLEAR,)
    assert copied.param_groups[1]["prox_every"] == 2
    assert next(iter(copied.state.values()))["steps"] == 1


@pytest.mark.parametrize(
    ("group", "message"),
    [
        ({"prox_every": 0}, "prox_every must be a number of steps, at least 1, or None, found 0"),
        ({"penalties": [0.3]}, "penalties must hold objects with view, value and prox"),
        ({"penalties": [Penalty(TopK(1), Coupled((Filters(),) * 2), 1.0)]}, "take 2 tensors together, .* has 1"),
        ({"penalties": [NUCLEAR, Penalty(TopK(1), Coupled((Filters(),) * 2), 1.0)]}, "equally many tensors"),
    ],
)
def test_groups_that_do_not_fit_are_refused(group, message):
    with pytest.raises(ValueError, match=message):
        ProximalSGD([{"params": [nn.Parameter(matrix())], **group}], lr=0.1)


def test_a_state_of_another_optimizer_is_refused():
    w = nn.Parameter(matrix())
    with pytest.raises(ValueError, match="its groups lack penalties"):
        ProximalSGD([w], lr=0.1).load_state_dict(SGD([w], lr=0.1).state_dict())
