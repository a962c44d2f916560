"""How a launcher started this process, and the process group for as long as the work takes."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist

from pliant.distributed.world import World

_LOG = logging.getLogger(__name__)
PATIENCE = timedelta(minutes=30)  # ranks wait for each other while one evaluates or writes
MEETING = timedelta(minutes=5)  # at the start, for a launcher that may be dead
_NEEDED = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


class LaunchError(ValueError):
    """The environment is that of a launcher, but not a complete one."""


@dataclass(frozen=True)
class Launch:
    """What `torchrun`, and `accelerate launch` through it, say in the environment.

    Args:
        rank: number of this process, from 0.
        size: how many there are.
        local_rank: its number on this machine, which is that of its GPU.
    """

    rank: int
    size: int
    local_rank: int

    @staticmethod
    def found(environment: Mapping[str, str] | None = None) -> Launch | None:
        """Return how this process was launched; None: by itself.

        Args:
            environment: None: that of this process.

        Raises:
            LaunchError: a part of what launchers say is missing or makes no sense.

        >>> Launch.found({}) is None
        True
        """
        known = os.environ if environment is None else environment
        if "RANK" not in known and "WORLD_SIZE" not in known:
            return None
        missing = [name for name in _NEEDED if name not in known]
        if missing:
            raise LaunchError(
                f"the environment has a part of what a launcher sets, but not {', '.join(missing)}; start with "
                "`torchrun --nproc-per-node N -m pliant ...` or `accelerate launch ...`, or unset RANK and WORLD_SIZE"
            )
        launch = Launch(*(_number(name, known[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK")))
        if not 0 <= launch.rank < launch.size or launch.local_rank < 0:
            raise LaunchError(f"RANK must be from 0 to WORLD_SIZE - 1, found {launch.rank} of {launch.size}")
        return launch


@contextmanager
def joined(device: torch.device | None = None, *, patience: timedelta = PATIENCE) -> Iterator[World]:
    """Join the processes of this launch for the time of a block: gloo for the CPU, NCCL for CUDA devices as well.

    A process that was not launched, or launched alone, is a world of its own. Where there is a process group already,
    of the caller's making, it is used and left alone.

    Args:
        device: what is trained on; None: the CPU.
        patience: how long a rank waits for another before it fails.

    Raises:
        LaunchError: as for `Launch.found`.
    """
    launch = Launch.found()
    if dist.is_available() and dist.is_initialized():
        yield World.current(0 if launch is None else launch.local_rank)
        return
    if launch is None or launch.size == 1:
        yield World()
        return
    cuda = device is not None and device.type == "cuda"
    if cuda:
        torch.cuda.set_device(launch.local_rank)
    _meet("cpu:gloo,cuda:nccl" if cuda else "gloo", patience)
    _LOG.info("rank %d of %d joined", launch.rank, launch.size)
    try:
        yield World.current(launch.local_rank)
    finally:
        dist.destroy_process_group()


def _meet(backend: str, patience: timedelta) -> None:
    """Join the process group that the environment speaks of; only the meeting itself is short of patience."""
    from torch.distributed.rendezvous import rendezvous  # noqa: PLC0415  (not in every build of torch)

    store, rank, size = next(rendezvous("env://", timeout=min(MEETING, patience)))
    store.set_timeout(patience)
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=patience)


def _number(name: str, text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise LaunchError(f"{name} must be a number, found {text!r}") from None
