"""A run as plain data and tensors, which `torch.load(weights_only=True)` reads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypedDict

import torch
from torch import Tensor

from pliant.bcd.errors import BCDError
from pliant.bcd.known import Known, Reached
from pliant.bcd.problem import Problem
from pliant.bcd.samples import Samples
from pliant.sets import Point, WeightSet
from pliant.spec import to_spec

Residuals = tuple[float | None, float | None]


class State(TypedDict):
    """The blocks that are no parameters of the model, what is known of them, and how far the run is.

    Sets are plain specifications, None where somebody's own set is not registered with `pliant.spec`.
    """

    done: int
    residuals: Residuals
    activations: list[Tensor]
    linear: list[Tensor]
    points: dict[str, list[Tensor]]
    sets: dict[str, Any]
    reached: dict[str, list[Tensor]]


def save(
    problem: Problem, samples: Samples, points: Mapping[int, Point], known: Known, run: tuple[int, Residuals]
) -> State:
    """Return the state; a point is its dense tensor and then its factors.

    Args:
        problem: whose chain names the blocks.
        samples: of the run.
        points: the compressed copies.
        known: what the next sweep need not compute.
        run: the sweeps done, and the first and the last residual.
    """
    names = [block.name for block in problem.chain.blocks]
    return {
        "done": run[0],
        "residuals": run[1],
        "activations": list(samples.activations[1:]),
        "linear": list(samples.linear),
        "points": {names[index]: [point.dense, *point.factors] for index, point in points.items()},
        "sets": {names[index]: _specification(one) for index, one in problem.sets.items()},
        "reached": {names[index]: [one.value, *one.parameters] for index, one in known.reached.items()},
    }


def load(
    state: State, problem: Problem, samples: Samples, points: Mapping[int, Point], known: Known
) -> dict[int, Point]:
    """Write the blocks of a state into samples, and what was known; return its points.

    Raises:
        BCDError: if there are other blocks, other shapes or dtypes, other layers or other sets.
    """
    chain = problem.chain
    old, new = (*samples.activations[1:], *samples.linear), (*state["activations"], *state["linear"])
    if [block.shape for block in old] != [block.shape for block in new]:
        raise BCDError("the state is of another model, or of another number of samples: its blocks have other shapes")
    if [block.dtype for block in old] != [block.dtype for block in new]:
        raise BCDError(f"the state must hold blocks of {old[0].dtype} as the model does, found {new[0].dtype}")
    names = {index: chain.blocks[index].name for index in points}
    if set(names.values()) != set(state["points"]):
        found = ", ".join(state["points"]) or "none"
        raise BCDError(f"the state must hold copies of {', '.join(names.values()) or 'no layer'}, found {found}")
    held = {index: _point(state["points"][name], points[index]) for index, name in names.items()}
    for index, name in names.items():
        _check_set(name, problem.sets[index], held[index], state.get("sets", {}).get(name))
    for here, there in zip(old, new, strict=True):
        here.copy_(there)
    for index, block in enumerate(chain.blocks):
        if block.name in state["reached"]:
            value, *parameters = (part.to(block.weight.device) for part in state["reached"][block.name])
            known.reached[index] = Reached(value.clone(), tuple(parameters))
    return held


def _specification(weight_set: WeightSet) -> Any:  # noqa: ANN401  (plain data)
    try:
        return to_spec(weight_set)
    except TypeError:
        return None


def _check_set(name: str, weight_set: WeightSet, point: Point, told: Any) -> None:  # noqa: ANN401  (as above)
    """Refuse a point of another set; where the state does not tell of which it is, see whether it is in this one."""
    expected = _specification(weight_set)
    if told is None or expected is None:
        if not _holds(weight_set, point):
            raise BCDError(f"{name}: the copy that the state holds is not in {weight_set}: it is of another set")
    elif told != expected:
        raise BCDError(f"{name}: the copy that the state holds must be of the set {expected}, found {told}")


def _holds(weight_set: WeightSet, point: Point) -> bool:
    again = weight_set.project(point.dense, near=point)
    same = [factor.shape for factor in again.factors] == [factor.shape for factor in point.factors]
    rounding = torch.finfo(point.dense.dtype).eps ** 0.5
    return same and bool((again.dense - point.dense).norm() <= rounding * point.dense.norm())


def _point(tensors: list[Tensor], like: Point) -> Point:
    dense, *factors = (tensor.to(like.dense.device) for tensor in tensors)
    return Point(dense, tuple(factors))
