"""Tensors whose parts lie on several processes: the DTensor parameters of FSDP2 and of tensor parallelism.

All that the package knows of them is here, and it is chosen by type. Functions that say so are collective: all
processes of the tensor's mesh must call them, in the same order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeGuard

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup
    from torch.distributed.tensor import DTensor

_PLAIN = (Tensor, nn.Parameter)


def is_sharded(x: Tensor) -> TypeGuard[DTensor]:
    """Tell whether a tensor is a DTensor."""
    if type(x) in _PLAIN:  # nearly always; importing what follows takes a second
        return False
    from torch.distributed.tensor import DTensor  # noqa: PLC0415

    return isinstance(x, DTensor)


def local(x: Tensor) -> Tensor:
    """Return this process's part of a tensor, without its history; the same memory."""
    if is_sharded(x):
        with torch.no_grad():
            return x.to_local()
    return x


def whole(x: Tensor) -> Tensor:
    """Return all of a tensor, without its history if it is sharded. Collective."""
    if is_sharded(x):
        with torch.no_grad():
            return x.full_tensor()
    return x


def sharded_like(part: Tensor, like: DTensor) -> DTensor:
    """Return this process's part as the sharded tensor that it belongs to, laid out as another one."""
    from torch.distributed.tensor import DTensor  # noqa: PLC0415

    return DTensor.from_local(
        part, like.device_mesh, like.placements, run_check=False, shape=like.shape, stride=like.stride()
    )


def part_of(full: Tensor, like: DTensor) -> Tensor:
    """Return this process's part of a tensor that all processes have, cut as another one is. No communication."""
    from torch.distributed.tensor import DTensor, Replicate  # noqa: PLC0415

    mesh = like.device_mesh
    everywhere = DTensor.from_local(full, mesh, [Replicate()] * mesh.ndim, run_check=False)
    return everywhere.redistribute(placements=like.placements).to_local()


def put(x: Tensor, full: Tensor) -> None:
    """Set a tensor to a value that all processes have."""
    if is_sharded(x):
        local(x).copy_(part_of(full, x))
    else:
        x.copy_(full)


def local_grad(x: Tensor) -> Tensor | None:
    """Return this process's part of a gradient, cut as the tensor is. Collective where it has to be cut anew."""
    grad = x.grad
    if grad is None or not is_sharded(x) or not is_sharded(grad):
        return grad
    if grad.placements != x.placements:
        grad = grad.redistribute(placements=x.placements)
    return grad.to_local()


def whole_grad(x: Tensor) -> Tensor | None:
    """Return all of a gradient. Collective where it is sharded."""
    return None if x.grad is None else whole(x.grad)


def put_grad(x: Tensor, full: Tensor) -> None:
    """Set the gradient of a tensor to a value that all processes have."""
    x.grad = sharded_like(part_of(full, x), x) if is_sharded(x) else full


def groups_between(x: DTensor) -> list[ProcessGroup]:
    """Return the process groups over which a tensor is cut; over the others of its mesh it is repeated."""
    mesh = x.device_mesh
    return [mesh.get_group(dim) for dim, placement in enumerate(x.placements) if not placement.is_replicate()]


def agreed(flags: Sequence[Tensor], likes: Sequence[Tensor]) -> Tensor:
    """Return whether all flags are set on all processes. Collective.

    Args:
        flags: booleans of this process; none stands for yes.
        likes: sharded tensors, at least one; all processes of their meshes take part.
    """
    import torch.distributed as dist  # noqa: PLC0415

    meshes = {like.device_mesh: None for like in likes if is_sharded(like)}
    device = torch.device(next(iter(meshes)).device_type)
    yes = torch.ones((), dtype=torch.bool, device=device)
    flag = torch.stack([yes, *(flag.to(device, non_blocking=True) for flag in flags)]).all().to(torch.int32)
    for mesh in meshes:
        for group in mesh.get_all_groups():
            dist.all_reduce(flag, op=dist.ReduceOp.MIN, group=group)
    return flag.bool()
