"""What optimizers around others have in common: their state, its hooks, and what they ask of a closure."""

import copy

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    get_state_dict,
    set_state_dict,
)
from torch.nn import functional as F
from torch.optim import SGD

from pliant.compress import UnstructuredPruning
from pliant.methods import Around, CrAM, Cramming, RandomCut, SpectralDecay, matrix_targets, operator_of

X = torch.randn(16, 6, generator=torch.Generator().manual_seed(1))
Y = torch.arange(16) % 3


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))


def random_cut(model, momentum=0.9):
    operators = [operator_of(UnstructuredPruning(), model, X)]
    return RandomCut(SGD(model.parameters(), lr=0.1, momentum=momentum), model, operators, (0.0, 0.5, 0.8), seed=1)


def cram(model, momentum=0.9):
    cramming = Cramming((0.2, 0.5, 0.8), seed=1)
    inner = SGD(model.parameters(), lr=0.1, momentum=momentum)
    return CrAM(inner, model, operator_of(UnstructuredPruning(), model, X), cramming)


def around(model):
    return Around(SGD(model.parameters(), lr=0.1), [SpectralDecay(matrix_targets(model), 0.1)])


AT_CUTS = pytest.mark.parametrize("make", [random_cut, cram])


def closure_of(model, optimizer):
    def closure():
        optimizer.zero_grad()
        loss = F.cross_entropy(model(X), Y)
        loss.backward()
        return loss.item()

    return closure


def learn(model, optimizer, steps):
    for _ in range(steps):
        optimizer.step(closure_of(model, optimizer))
    return model


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


# state


@pytest.mark.parametrize("make", [random_cut, cram, around])
def test_hooks_of_the_state_run(make):
    seen, optimizer = [], make(net())
    optimizer.register_state_dict_pre_hook(lambda _: seen.append("before saving"))
    optimizer.register_state_dict_post_hook(lambda _, state: state | {"note": "saved"})
    optimizer.register_load_state_dict_pre_hook(
        lambda _, state: {key: value for key, value in state.items() if key != "note"}
    )
    optimizer.register_load_state_dict_post_hook(lambda _: seen.append("loaded"))
    state = optimizer.state_dict()
    assert state["note"] == "saved"
    optimizer.load_state_dict(state)
    assert seen == ["before saving", "loaded"]
    assert state["note"] == "saved"  # hooks edit a copy


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
@AT_CUTS
@pytest.mark.parametrize(("momentum", "flat"), [(0.0, False), (0.9, False), (0.9, True)])
def test_a_distributed_checkpoint_resumes_to_the_bit(make, momentum, flat, tmp_path):
    options = StateDictOptions(flatten_optimizer_state_dict=flat)
    model, resumed = net(), net()
    optimizer, again = make(model, momentum), make(resumed, momentum)
    learn(model, optimizer, 3)
    weights, state = get_state_dict(model, optimizer, options=options)
    dcp.save({"weights": weights, "state": state}, checkpoint_id=tmp_path, no_dist=True)
    weights, state = get_state_dict(resumed, again, options=options)
    dcp.load({"weights": weights, "state": state}, checkpoint_id=tmp_path, no_dist=True)
    set_state_dict(resumed, again, model_state_dict=weights, optim_state_dict=state, options=options)
    assert again.taken == 3
    assert same(learn(model, optimizer, 5), learn(resumed, again, 5))


@AT_CUTS
def test_functions_that_ask_for_the_state_before_the_first_step_leave_no_trace(make):
    model, twin = net(), net()
    optimizer = make(model)
    state = get_optimizer_state_dict(model, optimizer)
    assert "momentum_buffer" in state["state"]["0.weight"]
    assert [group["lr"] for group in optimizer.param_groups] == [0.1]
    assert optimizer.taken == 0
    assert same(learn(model, optimizer, 4), learn(twin, make(twin), 4))


@AT_CUTS
def test_a_step_with_gradients_is_not_taken_for_the_making_of_state(make):
    model = net()
    optimizer = make(model)
    optimizer.param_groups[0]["lr"] = 0.0  # as where a warm-up starts
    F.cross_entropy(model(X), Y).backward()
    with pytest.raises(ValueError, match=r"call (begin|step)\("):
        optimizer.step()


@AT_CUTS
def test_states_that_have_the_count_beside_the_groups_are_loaded(make):
    model, resumed = net(), net()
    optimizer, again = make(model), make(resumed)
    learn(model, optimizer, 3)
    state = copy.deepcopy(optimizer.state_dict())
    key = type(optimizer).key
    state[key] = {"taken": state["param_groups"][0].pop(f"{key}_taken")}
    resumed.load_state_dict(model.state_dict())
    again.load_state_dict(state)
    assert again.taken == 3
    assert again.state_dict().keys() == {"state", "param_groups"}
    assert same(learn(model, optimizer, 3), learn(resumed, again, 3))


# closures


@AT_CUTS
def test_a_closure_that_evaluates_nothing_is_refused_where_old_gradients_would_pass_for_new_ones(make):
    model = net()
    before = copy.deepcopy(model)
    optimizer = make(model)
    optimizer.step(lambda: None)  # nothing to mistake: an empty step
    F.cross_entropy(model(X), Y).backward()
    with pytest.raises(ValueError, match="evaluated nothing, and the gradients are those from before"):
        optimizer.step(lambda: None)
    assert same(model, before)
    assert optimizer.taken == 0


@AT_CUTS
@pytest.mark.parametrize("set_to_none", [True, False])
def test_a_closure_that_forgets_to_return_the_loss_is_none_that_evaluates_nothing(make, set_to_none):
    model, twin = net(), net()
    optimizer, other = make(model), make(twin)

    def closure():
        optimizer.zero_grad(set_to_none=set_to_none)
        F.cross_entropy(model(X), Y).backward()

    for _ in range(3):
        optimizer.step(closure)
    assert same(model, learn(twin, other, 3))


@AT_CUTS
def test_a_closure_that_does_not_clear_the_gradients_is_refused(make):
    model = net()
    before = copy.deepcopy(model)
    optimizer = make(model)
    F.cross_entropy(model(X), Y).backward()

    def closure():
        loss = F.cross_entropy(model(X), Y)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        return loss

    with pytest.raises(ValueError, match="This one added to gradients that were there: clear them"):
        optimizer.step(closure)
    assert same(model, before)
    optimizer.zero_grad(set_to_none=False)
    optimizer.step(closure)  # to zeros it may add
    assert optimizer.taken == 1


@AT_CUTS
def test_a_closure_may_set_gradients_by_itself_in_place_of_old_ones(make):
    model, twin = net(), net()
    optimizer = make(model)
    params = list(model.parameters())
    for p in params:
        p.grad = torch.ones_like(p)

    def closure():
        found = torch.autograd.grad(F.cross_entropy(model(X), Y), params)
        for p, grad in zip(params, found, strict=True):
            p.grad = torch.zeros_like(p) if p.grad is None else p.grad
            p.grad.copy_(grad)
        return 0.0

    for _ in range(3):
        optimizer.step(closure)
    assert same(model, learn(twin, make(twin), 3))
