"""What can be told about sets and samples before anything moves."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from pliant.bcd.chain import Chain
from pliant.bcd.errors import BCDError
from pliant.sets import Point, WeightSet
from pliant.sets.naming import naming


def by_block(chain: Chain, sets: Mapping[str, WeightSet]) -> dict[int, WeightSet]:
    """Return sets by block instead of by qualified name.

    Raises:
        BCDError: if one belongs to no layer of the chain.
    """
    index = {block.name: number for number, block in enumerate(chain.blocks)}
    unknown = sorted(set(sets) - set(index))
    if unknown:
        raise BCDError(f"sets must belong to layers of the chain, {', '.join(index)}; found {', '.join(unknown)}")
    return {index[name]: one for name, one in sets.items()}


def first_point(chain: Chain, index: int, weight_set: WeightSet) -> Point:
    """Return the copy that a layer starts with: the projection of its weight.

    Raises:
        BCDError: if the weight is frozen.
        SetError, TrainError: if the set does not fit; the message names the layer.
    """
    block = chain.blocks[index]
    if not block.weight.requires_grad:
        raise BCDError(
            f"{block.name}: its weight is frozen (requires_grad=False) and can follow no set: leave the set out, or "
            "let the weight learn"
        )
    with naming(block.name):
        return weight_set.project(block.weight)


def check_learning(chain: Chain) -> None:
    """Refuse a chain of which nothing learns.

    Raises:
        BCDError: if all parameters are frozen.
    """
    if all(block.learning.start == block.learning.stop for block in chain.blocks):
        raise BCDError(
            "every layer of the chain is frozen (requires_grad=False): let those learn that are to be trained"
        )


def check_samples(chain: Chain, x: Tensor, y: Tensor) -> None:
    """Refuse samples that a chain cannot be trained on.

    Raises:
        BCDError: if inputs are not like the weights, not finite, none, of shapes that the layers do not read, or not as
            many as labels; or targets are not finite.
    """
    weight = chain.blocks[0].weight
    if weight.dtype not in {torch.float32, torch.float64}:
        raise BCDError(
            f"weights must be float32 or float64, which linear systems can be solved in, found {weight.dtype}"
        )
    if (x.dtype, x.device) != (weight.dtype, weight.device):
        raise BCDError(
            f"inputs must be {weight.dtype} on {weight.device} as weights are, found {x.dtype} on {x.device}"
        )
    if len(x) != len(y) or not len(x):
        raise BCDError(f"inputs and labels must be as many, at least one, found {len(x)} and {len(y)}")
    if not bool(torch.isfinite(x).all()):
        raise BCDError("inputs must be finite, found infinite or NaN entries")
    if y.is_floating_point() and not bool(torch.isfinite(y).all()):
        raise BCDError("targets must be finite, found infinite or NaN entries")
    _check_shapes(chain, x[:1])


@torch.no_grad()
def _check_shapes(chain: Chain, sample: Tensor) -> None:
    """Refuse a sample that some layer reads as something else, or not at all."""
    activations = [sample]
    for index, block in enumerate(chain.blocks):
        weight, shape = tuple(block.weight.shape), tuple(activations[-1].shape[1:])
        reason = f"{block.name}: samples come to it in the shape {shape}, which its weight {weight} cannot read"
        try:
            read = block.operator.maps.apply(activations[-1])
            out = chain.linear(index, activations)
        except (RuntimeError, IndexError) as error:
            raise BCDError(f"{reason}: {error}") from error
        if read.ndim != block.weight.ndim:
            raise BCDError(f"{reason}: it needs {block.weight.ndim - 1} dimensions a sample, found {read.ndim - 1}")
        activations.append(block.activation.apply(out))
