"""A run as plain data and tensors, which `torch.load(weights_only=True)` reads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypedDict

from torch import Tensor

from pliant.bcd.chain import Chain
from pliant.bcd.errors import BCDError
from pliant.bcd.known import Known, Reached
from pliant.bcd.samples import Samples
from pliant.sets import Point

Residuals = tuple[float | None, float | None]


class State(TypedDict):
    """The blocks that are no parameters of the model, what is known of them, and how far the run is."""

    done: int
    residuals: Residuals
    activations: list[Tensor]
    linear: list[Tensor]
    points: dict[str, list[Tensor]]
    reached: dict[str, list[Tensor]]


def save(
    chain: Chain, samples: Samples, points: Mapping[int, Point], known: Known, run: tuple[int, Residuals]
) -> State:
    """Return the state; a point is its dense tensor and then its factors.

    Args:
        chain: that names the blocks.
        samples: of the run.
        points: the compressed copies.
        known: what the next sweep need not compute.
        run: the sweeps done, and the first and the last residual.
    """
    names = [block.name for block in chain.blocks]
    return {
        "done": run[0],
        "residuals": run[1],
        "activations": list(samples.activations[1:]),
        "linear": list(samples.linear),
        "points": {names[index]: [point.dense, *point.factors] for index, point in points.items()},
        "reached": {names[index]: [one.value, *one.parameters] for index, one in known.reached.items()},
    }


def load(state: State, chain: Chain, samples: Samples, points: Mapping[int, Point], known: Known) -> dict[int, Point]:
    """Write the blocks of a state into samples, and what was known; return its points.

    Raises:
        BCDError: if there are other blocks, other shapes or other layers.
    """
    old, new = (*samples.activations[1:], *samples.linear), (*state["activations"], *state["linear"])
    if [block.shape for block in old] != [block.shape for block in new]:
        raise BCDError("the state is of another model, or of another number of samples: its blocks have other shapes")
    names = {index: chain.blocks[index].name for index in points}
    if set(names.values()) != set(state["points"]):
        found = ", ".join(state["points"]) or "none"
        raise BCDError(f"the state must hold copies of {', '.join(names.values()) or 'no layer'}, found {found}")
    for here, there in zip(old, new, strict=True):
        here.copy_(there)
    for index, block in enumerate(chain.blocks):
        if block.name in state["reached"]:
            value, *parameters = (part.to(block.weight.device) for part in state["reached"][block.name])
            known.reached[index] = Reached(value.clone(), tuple(parameters))
    return {index: _point(state["points"][name], points[index]) for index, name in names.items()}


def _point(tensors: list[Tensor], like: Point) -> Point:
    dense, *factors = (tensor.to(like.dense.device) for tensor in tensors)
    return Point(dense, tuple(factors))
