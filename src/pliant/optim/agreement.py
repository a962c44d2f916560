"""Whether all processes train the same: a plan that differs between ranks raises on every one of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import torch
import torch.distributed as dist
from torch import Tensor
from torch.optim import Optimizer

from pliant.optim.gradient import gradient_of
from pliant.optim.group import names
from pliant.optim.group import plain as spelled_out
from pliant.sharding import is_sharded

_SHOWN = 3  # differences in a message


class RankMismatchError(ValueError):
    """Processes that must take the same steps would take different ones; raised on all of them."""


@runtime_checkable
class Described(Protocol):
    """An optimizer that does more than its groups say."""

    def settings(self) -> list[str]:
        """Return all of that which must be alike on all processes, a line for each part."""


def settings_of(optimizer: Optimizer) -> list[str]:
    """Return what an optimizer does beyond its groups; of most nothing."""
    return optimizer.settings() if isinstance(optimizer, Described) else []


def check_ranks(optimizer: Optimizer, group: dist.ProcessGroup | None = None, *, weights: bool = False) -> None:
    """Check that all processes have the same groups: parameters, shapes, regions, step rules, rates. Collective.

    Call it once before training with replicated weights (`DistributedDataParallel`), after the last change of the
    groups, on every process. With sharded weights the first step does so by itself. Without a process group it does
    nothing.

    Args:
        optimizer: any of this package.
        group: the processes; None: all.
        weights: whether replicated weights and their gradients' presence must agree as well, to the bit. Reads all.

    Raises:
        RankMismatchError: on every process, naming the ranks and what they have that rank 0 has not.
    """
    if dist.is_available() and dist.is_initialized():
        agree([*describe(optimizer.param_groups, weights=weights), *settings_of(optimizer)], group)


def describe(groups: Sequence[dict[str, Any]], *, weights: bool = False) -> list[str]:
    """Return what must be alike on all processes, one line for each group."""
    return [_describe(group, weights=weights) for group in groups]


def agree(lines: Sequence[str], group: dist.ProcessGroup | None = None) -> None:
    """Check that all processes give the same lines. Collective; hashes travel, and lines only if these differ.

    Raises:
        RankMismatchError: on every process.
    """
    digest = hashlib.sha256("\n".join(lines).encode()).hexdigest()
    digests: list[str] = [""] * dist.get_world_size(group)
    dist.all_gather_object(digests, digest, group=group)
    if len(set(digests)) == 1:
        return
    first: list[Any] = [list(lines)]
    dist.broadcast_object_list(first, group=group, group_src=0)
    own = [*(x for x in lines if x not in first[0]), *(f"not {x}" for x in first[0] if x not in lines)]
    every: list[list[str]] = [[]] * len(digests)
    dist.all_gather_object(every, own[:_SHOWN], group=group)
    told = "\n".join(
        f"  rank {rank}: {'; '.join(odd) or 'the same groups in another order'}"
        for rank, odd in enumerate(every)
        if digests[rank] != digests[0]
    )
    raise RankMismatchError(
        "all ranks must have the same plan, build it from the same model and the same settings; these differ from rank "
        f"0:\n{told}"
    )


def agree_over(tensors: Sequence[Tensor], lines: Sequence[str]) -> None:
    """Check that all processes of the mesh of sharded tensors give the same lines. Collective.

    Raises:
        RankMismatchError: on every process.
    """
    mesh = next(x.device_mesh for x in tensors if is_sharded(x))
    if mesh.size() == dist.get_world_size():
        agree(lines)
        return
    for group in mesh.get_all_groups():
        agree(lines, group)


def agree_if_sharded(optimizer: Optimizer) -> bool:
    """Check that all processes have the same groups, where the parameters of an optimizer are sharded. Collective.

    Args:
        optimizer: whose first step is due.

    Returns:
        True: it need not be asked again.

    Raises:
        RankMismatchError: on every process.
    """
    spread = [p for group in optimizer.param_groups for p in group["params"] if is_sharded(p)]
    if spread:
        agree_over(spread, [*describe(optimizer.param_groups), *settings_of(optimizer)])
    return True


def _describe(group: dict[str, Any], *, weights: bool) -> str:
    options = {key: _number(value) for key, value in spelled_out(group).items() if key not in {"params", "param_names"}}
    params = [
        (name, tuple(p.shape), str(p.dtype), *_seen(p, weights=weights))
        for name, p in zip(names(group), group["params"], strict=True)
    ]
    return json.dumps([params, options], sort_keys=True, default=str)


def _number(value: object) -> object:
    return float(value) if isinstance(value, Tensor) else value


def _seen(p: Tensor, *, weights: bool) -> tuple[object, ...]:
    """Return whether there is a gradient, and a hash of weights that ought to be alike."""
    if not weights or is_sharded(p):
        return (gradient_of(p) is not None,)
    data = p.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    return (gradient_of(p) is not None, hashlib.sha256(data.tobytes()).hexdigest())
