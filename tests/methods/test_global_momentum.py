"""Global sparse momentum: who sees the gradient, and where the others go."""

import copy

import pytest
import torch
from torch import nn
from torch.optim import SGD

from pliant.methods import Around, GlobalSparseMomentum, Target, filter_targets
from pliant.regions import Axes
from pliant.testing import OPTIMIZER_LAWS, check_optimizer
from pliant.testing.optimizers import finite, habits


def two(active, **options):
    torch.manual_seed(0)
    params = [nn.Parameter(torch.randn(4, 3)), nn.Parameter(torch.randn(2, 5)), nn.Parameter(torch.randn(6))]
    targets = tuple(Target(f"layer{i}", p, Axes()) for i, p in enumerate(params[:2]))
    inner = SGD(params, **({"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01} | options))
    return params, Around(inner, [GlobalSparseMomentum(targets, active)])


def test_it_is_the_slow_twin():
    params, optimizer = two(5)
    ws = [p.detach().clone() for p in params]
    zs = [torch.zeros_like(w) for w in ws]
    for _ in range(6):
        grads = [torch.randn_like(w) for w in ws]
        for p, grad in zip(params, grads, strict=True):
            p.grad = grad.clone()
        optimizer.step()
        entries = [
            (abs(float(w[i, j] * g[i, j])), k, i, j)
            for k, (w, g) in enumerate(zip(ws[:2], grads[:2], strict=True))
            for i in range(len(w))
            for j in range(w.shape[1])
        ]
        chosen = {entry[1:] for entry in sorted(entries, reverse=True)[:5]}
        for k, (w, g) in enumerate(zip(ws, grads, strict=True)):
            mask = torch.ones_like(w)
            if k < 2:
                mask = torch.tensor([[float((k, i, j) in chosen) for j in range(w.shape[1])] for i in range(len(w))])
            zs[k] = 0.9 * zs[k] + 0.01 * w + mask * g
            ws[k] = w - 0.1 * zs[k]
    for p, w in zip(params, ws, strict=True):
        torch.testing.assert_close(p.detach(), w, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("active", "count"), [(1, 1), (7, 7), (0.5, 11), (1.0, 22), (100, 22)])
def test_exactly_so_many_entries_see_their_gradient_ties_included(active, count):
    params, optimizer = two(active)
    for p in params:
        p.data.fill_(1.0)
        p.grad = torch.ones_like(p)
    optimizer.step()
    assert sum(int((p.grad != 0).sum()) for p in params[:2]) == count
    assert bool(params[2].grad.all())


def test_with_all_active_it_is_the_inner_optimizer_to_the_bit():
    params, optimizer = two(1.0)
    twins = [nn.Parameter(p.detach().clone()) for p in params]
    inner = SGD(twins, lr=0.1, momentum=0.9, weight_decay=0.01)
    for _ in range(4):
        for p, q in zip(params, twins, strict=True):
            p.grad = torch.randn_like(p)
            q.grad = p.grad.clone()
        optimizer.step()
        inner.step()
    assert all(torch.equal(p, q) for p, q in zip(params, twins, strict=True))


def test_entries_that_are_never_chosen_decay_towards_zero():
    params, optimizer = two(4, weight_decay=0.05, momentum=0.9)
    goal = [torch.zeros_like(p) for p in params]
    goal[0][0, :] = 3.0
    goal[1][0, 0] = -3.0
    for _ in range(600):
        for p, g in zip(params, goal, strict=True):
            p.grad = p.detach() - g
        optimizer.step()
    entries = torch.cat([p.detach().flatten() for p in params[:2]])
    wanted = torch.cat([g.flatten() != 0 for g in goal[:2]])
    assert float(entries[~wanted].abs().max()) < 1e-3
    assert float(entries[wanted].abs().min()) > 2.0


def test_a_resumed_run_is_the_uninterrupted_one():
    def run(steps, state=None):
        params, optimizer = two(5)
        if state is not None:
            for p, w in zip(params, state[0], strict=True):
                p.data.copy_(w)
            optimizer.load_state_dict(state[1])
        for step in range(optimizer.taken, optimizer.taken + steps):
            draws = torch.Generator().manual_seed(step)
            for p in params:
                p.grad = torch.randn(p.shape, generator=draws)
            optimizer.step()
        return [p.detach().clone() for p in params], copy.deepcopy(optimizer.state_dict())

    whole, _ = run(6)
    resumed, _ = run(3, run(3))
    assert all(torch.equal(a, b) for a, b in zip(whole, resumed, strict=True))


def test_it_obeys_the_laws_of_optimizers():
    def make(model):
        inner = SGD(model.named_parameters(), lr=0.1, momentum=0.9, weight_decay=1e-2)
        return Around(inner, [GlobalSparseMomentum(filter_targets(model), 0.3)])

    left_out = {
        finite.nonfinite_gradients_touch_nothing,  # as torch's SGD
        habits.gradients_are_untouched,  # choosing among them is what the map is for
        habits.added_groups_are_alone,  # a map keeps to its own targets
    }
    check_optimizer(make, laws=[law for law in OPTIMIZER_LAWS if law not in left_out])


@pytest.mark.parametrize("active", [0, 0.0, 1.5, -1, True])
def test_what_is_no_count_or_share_is_refused(active):
    with pytest.raises(ValueError, match="k must be an int >= 1"):
        GlobalSparseMomentum((), active)
