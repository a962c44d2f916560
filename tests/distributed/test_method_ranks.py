"""Every other optimizer of the package, in several processes, follows the weights of one process."""

import copy

import pytest
import scenes
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from process_ranks import message_of, on_ranks
from torch.distributed.checkpoint.state_dict import (
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.optim import SGD

from pliant.compress import FilterPruning, LowRank, UnstructuredPruning
from pliant.methods import (
    Around,
    Conditioned,
    CrAM,
    Cramming,
    DynamicRank,
    GlobalSparseMomentum,
    GroupLasso,
    InputLasso,
    LoRITa,
    LowRankCores,
    NuclearNorm,
    RandomCut,
    SpectralDecay,
    Subgradient,
    TrainedRank,
    cores,
    filter_targets,
    matrix_targets,
    operator_of,
    penalised,
    penalised_groups,
)
from pliant.optim import Adaptive, DualAveraging, ProximalSGD, RankMismatchError, check_ranks
from pliant.regions import Entries, Penalty, TopK

STEPS = 50
SPARSE = (Penalty(TopK(1), Entries(), 0.2),)


def sgd(model, momentum=0.9):
    return SGD(model.parameters(), lr=0.05, momentum=momentum, weight_decay=1e-3)


def around(make, momentum=0.9):
    return lambda model: Around(sgd(model, momentum), [make(model)])


def dual(*terms, **options):
    return lambda model: DualAveraging(penalised_groups(model, penalised(model, terms)), **{"lr": 0.5} | options)


def cram(compressor):
    def make(model):
        cramming = Cramming((0.0, 0.5, 0.7), normalised=True)
        return CrAM(sgd(model), model, operator_of(compressor, model, scenes.EXAMPLE), cramming)

    return make


def random_cut(model):
    operator = operator_of(FilterPruning(), model, scenes.EXAMPLE)
    return RandomCut(sgd(model), model, [operator], (0.0, 0.5, 0.7))


TERMS = (GroupLasso(2e-2, alpha=0.3), InputLasso(1e-2), NuclearNorm(1e-2))
METHODS = {
    "ProximalSGD, filters and rank": lambda model: ProximalSGD(
        penalised_groups(model, penalised(model, TERMS)), lr=0.05
    ),
    "ProximalSGD, entries": lambda model: ProximalSGD(model.parameters(), lr=0.05, penalties=SPARSE, prox_every=3),
    "DualAveraging, filters": dual(GroupLasso(2e-2), restart_every=20, settle_after=30, weight_decay=1e-3),
    "DualAveraging, rank": dual(NuclearNorm(1e-2)),
    "DualAveraging, adaptive": dual(GroupLasso(1e-2), adaptive=Adaptive(), lr=0.02, restart_every=20),
    "DualAveraging, no penalty": lambda model: DualAveraging(model.parameters(), lr=0.1),
    "subgradients": around(lambda model: Subgradient(penalised(model, TERMS))),
    "spectral decay": around(lambda model: SpectralDecay(matrix_targets(model), 0.1)),
    "trained rank": around(lambda model: TrainedRank(matrix_targets(model), every=3, energy=0.8, nuclear=1e-2)),
    "dynamic rank": around(lambda model: DynamicRank(matrix_targets(model), tolerance=0.4), momentum=0.1),
    "global momentum": around(lambda model: GlobalSparseMomentum(filter_targets(model), 0.1)),
    "conditioned": around(lambda model: Conditioned(cores(model)), momentum=0.45),
    "lorita": sgd,
}
CRAMS = {f"cram, {name}": cram(c) for name, c in (("filters", FilterPruning()), ("rank", LowRank()))}
CRAMS |= {"cram, entries": cram(UnstructuredPruning())}
CRAMS |= {"random cut": random_cut}
CHANGES = {"conditioned": LowRankCores(0.5, last=True), "lorita": LoRITa(last=True)}


def scene_of(kind, name):
    model = scenes.net()
    model = CHANGES[name].apply(model) if name in CHANGES else model
    called = scenes.spread(kind, model)
    return scenes.Scene(called, model, (METHODS | CRAMS)[name](model))


def weights_after(kind, names, steps):
    return {name: scenes.train(scene_of(kind, name), steps).weights() for name in names}


def names_for(kind):
    return [*METHODS, *(() if kind in scenes.SHARDED else CRAMS)]


def require_same_runs(kind, world, steps, timeout):
    names = names_for(kind)
    one = weights_after("one", names, steps)
    several = on_ranks(world, weights_after, kind, names, steps, timeout=timeout)
    for name in names:
        start = scene_of("one", name).weights()
        assert all((w - start[key]).abs().max() > 1e-4 for key, w in one[name].items() if w.ndim > 1), name
        for key, expected in one[name].items():
            for rank in several:
                torch.testing.assert_close(
                    rank[name][key], expected, atol=1e-6, rtol=0.0, msg=lambda text, n=name, k=key: f"{n}, {k}: {text}"
                )
                assert torch.equal(rank[name][key], several[0][name][key]), (name, key)


@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_three_steps_of_every_method_are_those_of_one_process(kind):
    require_same_runs(kind, 2, 3, timeout=200)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("kind", "world"), [("ddp", 2), ("fsdp", 2), ("ddp", 4), ("fsdp", 4), ("hsdp", 4)])
def test_fifty_steps_of_every_method_are_those_of_one_process(kind, world):
    require_same_runs(kind, world, STEPS, timeout=800)


def test_what_is_compared_does_what_it_is_for():
    trained = weights_after("one", ["ProximalSGD, entries", "trained rank", "dynamic rank", "conditioned"], 6)
    assert any((w == 0).any() for w in trained["ProximalSGD, entries"].values())
    ranks = {name: torch.linalg.matrix_rank(w["3.weight"].flatten(1)) for name, w in trained.items() if "rank" in name}
    assert all(1 <= rank < 7 for rank in ranks.values()), ranks
    values = torch.linalg.svdvals(trained["conditioned"]["3.1.weight"].flatten(1))
    assert values[0] / values[-1] <= 1.5 + 1e-9


def different(name, kind):
    """Let rank 1 have another strength than rank 0."""
    model = scenes.net()
    called = scenes.spread(kind, model)
    strength = 0.1 * (1 + dist.get_rank())
    optimizer = {
        "proximal": lambda: ProximalSGD(model.parameters(), lr=0.1, penalties=(Penalty(TopK(1), Entries(), strength),)),
        "dual averaging": lambda: DualAveraging(model.parameters(), lr=strength),
        "map": lambda: Around(sgd(model), [SpectralDecay(matrix_targets(model), strength)]),
        "cram": lambda: CrAM(
            sgd(model), model, operator_of(UnstructuredPruning(), model, scenes.EXAMPLE), Cramming((strength,))
        ),
    }[name]()
    made = scenes.Scene(called, model, optimizer)
    before = made.weights()
    act = (lambda: check_ranks(optimizer)) if kind == "ddp" else (lambda: scenes.train(made, 1))
    return message_of(RankMismatchError, act), all(torch.equal(before[n], w) for n, w in made.weights().items())


def all_different(kind):
    names = ["proximal", "dual averaging", "map", *(["cram"] if kind == "ddp" else [])]
    return [different(name, kind) for name in names]


@pytest.mark.parametrize("kind", ["fsdp", pytest.param("ddp", marks=pytest.mark.slow)])
def test_another_strength_on_one_rank_raises_on_all(kind):
    first, second = on_ranks(2, all_different, kind)
    assert first == second
    assert all(text is not None and "rank 1" in text and untouched for text, untouched in first), first


def refused():
    model = scenes.net()
    early = matrix_targets(model)
    operator = operator_of(UnstructuredPruning(), model, scenes.EXAMPLE)
    called = scenes.spread("fsdp", model)
    whole = message_of(ValueError, lambda: CrAM(sgd(model), model, operator, Cramming((0.5,))))
    made = scenes.Scene(called, model, Around(sgd(model), [SpectralDecay(early, 0.1)]))
    return whole, message_of(ValueError, lambda: scenes.train(made, 1))


@pytest.mark.slow
def test_what_cannot_be_sharded_and_what_was_made_too_early_is_refused():
    for whole, early in on_ranks(2, refused):
        assert "0.weight is sharded" in whole
        assert "after fully_shard" in early


def saved_and_resumed(folder, name):
    """Save after 3 steps with torch.distributed.checkpoint, load into a fresh training, go on; and without a break."""
    through = scenes.train(scene_of("fsdp", name), 3)
    dcp.save(states_of(through), checkpoint_id=folder)
    scenes.train(through, 3, start=3)
    again = scene_of("fsdp", name)
    fresh = states_of(again)
    dcp.load(fresh, checkpoint_id=folder)
    set_model_state_dict(again.inner, fresh["model"])
    set_optimizer_state_dict(again.inner, again.optimizer, fresh["optimizer"])
    scenes.train(again, 3, start=3)
    return through.weights(), again.weights()


def states_of(made):
    return {
        "model": get_model_state_dict(made.inner),
        "optimizer": get_optimizer_state_dict(made.inner, made.optimizer),
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ProximalSGD, entries", "DualAveraging, filters", "DualAveraging, adaptive"])
def test_a_distributed_checkpoint_resumes_to_the_bit_with_penalties(name, tmp_path):
    for through, again in on_ranks(2, saved_and_resumed, str(tmp_path / "checkpoint"), name):
        assert all(torch.equal(through[key], w) for key, w in again.items())


def without_memory():
    """Save a method that remembers by its own state dict, and by torch's functions, which know no more than state."""
    through = scenes.train(scene_of("fsdp", "dynamic rank"), 3)
    model, own = get_model_state_dict(through.inner), copy.deepcopy(through.optimizer.state_dict())
    model = {name: w.clone() for name, w in model.items()}
    stripped = get_optimizer_state_dict(through.inner, through.optimizer)
    scenes.train(through, 3, start=3)
    again = scene_of("fsdp", "dynamic rank")
    text = message_of(ValueError, lambda: set_optimizer_state_dict(again.inner, again.optimizer, stripped))
    set_model_state_dict(again.inner, model)
    again.optimizer.load_state_dict(own)
    return text, through.weights(), scenes.train(again, 3, start=3).weights()


@pytest.mark.slow
def test_what_maps_remember_is_in_the_state_dict_and_missed_where_it_is_lost():
    for text, through, again in on_ranks(2, without_memory):
        assert "Around" in text
        assert all(torch.equal(through[key], w) for key, w in again.items())
