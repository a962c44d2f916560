"""Laws of state: what an optimizer saves is all that it knows."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable

import torch
from torch import Tensor
from torch.optim import Optimizer

from pliant.testing.optimizers.case import OptimizerCase, Run
from pliant.testing.optimizers.compare import oddities, require_feasible, require_same, same
from pliant.testing.violation import require


def resumed_is_uninterrupted(case: OptimizerCase) -> None:
    """Continued after `torch.save` and `torch.load(weights_only=True)` a run is the uninterrupted one, to the bit."""
    _check_copies(case, "torch.save and torch.load", lambda optimizer: _reloaded(optimizer, case.elsewhere().start()))


def deepcopy_is_uninterrupted(case: OptimizerCase) -> None:
    """A run continued on `copy.deepcopy` of the optimizer equals the uninterrupted one, to the bit."""
    _check_copies(case, "deepcopy", copy.deepcopy)


def pickle_is_uninterrupted(case: OptimizerCase) -> None:
    """A run continued on a pickled and unpickled optimizer equals the uninterrupted one, to the bit."""
    _check_copies(case, "pickle", lambda optimizer: pickle.loads(pickle.dumps(optimizer)))  # noqa: S301  (our own bytes)


def state_dict_is_plain(case: OptimizerCase) -> None:
    """`state_dict` holds numbers, strings, None, tensors, and lists, tuples and dicts of them, whenever asked for."""
    for run in (case.start(), case.start().take(1)):
        odd = oddities(run.optimizer.state_dict())
        require(not odd, "state_dict is plain data and tensors", case, "; ".join(odd), "nothing else")


def loading_own_state_changes_nothing(case: OptimizerCase) -> None:
    """`load_state_dict(state_dict())` changes nothing, and neither changes what `state_dict` says."""
    run = case.start().take(2)
    before = run.snapshot()
    run.optimizer.load_state_dict(run.optimizer.state_dict())
    require(same(before, run.snapshot()), "loading its own state changes nothing", case, "changes", "none")
    expected = case.start().take(case.steps).weights()
    require_same(expected, run.take(case.steps - 2).weights(), "loading its own state changes no step", case)


def dtypes_are_kept(case: OptimizerCase) -> None:
    """Weights and floating-point state keep the dtype of the weights, also through `load_state_dict`."""
    run = case.start().take(1)
    run.optimizer.load_state_dict(run.optimizer.state_dict())
    state = [x for entry in run.take(1).optimizer.state.values() for x in entry.values() if isinstance(x, Tensor)]
    found = {x.dtype for x in [*run.params, *state] if x.is_floating_point()}
    require(found == {case.dtype}, "weights and state keep their dtype", case, found, {case.dtype})


def _reloaded(optimizer: Optimizer, into: Run) -> Optimizer:
    file = io.BytesIO()
    torch.save(
        {"state": optimizer.state_dict(), "weights": [p.detach() for p in Run(into.case, optimizer).params]}, file
    )
    file.seek(0)
    loaded = torch.load(file, weights_only=True)
    with torch.no_grad():
        for p, weight in zip(into.params, loaded["weights"], strict=True):
            p.copy_(weight)
    into.optimizer.load_state_dict(loaded["state"])
    return into.optimizer


def _check_copies(case: OptimizerCase, way: str, duplicate: Callable[[Optimizer], Optimizer]) -> None:
    expected = case.start().take(case.steps).weights()
    run = case.start().take(2)
    copied = Run(case, duplicate(run.optimizer), run.index)
    require_same(expected, copied.take(case.steps - 2).weights(), f"continued after {way} is uninterrupted", case)
    require_same(expected, run.take(case.steps - 2).weights(), f"{way} leaves the original alone", case)
    require_feasible(copied, f"iterates stay feasible after {way}")
