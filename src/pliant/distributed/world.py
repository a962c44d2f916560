"""The processes that work together, of which there may be one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from pliant.distributed.share import Share, share

T = TypeVar("T")
R = TypeVar("R")


class RankError(RuntimeError):
    """Another rank failed, so that this one cannot go on."""


@dataclass(frozen=True)
class World:
    """The processes that work together; by default one, for which everything below is done at once and alone.

    Methods that say so are collective: all ranks must call them, in the same order.

    Args:
        rank: number of this process.
        size: how many there are.
        local_rank: number of this process on its machine.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @staticmethod
    def current(local_rank: int = 0) -> World:
        """Return the world of the default process group, or of one process where there is none."""
        if not (dist.is_available() and dist.is_initialized()):
            return World()
        return World(dist.get_rank(), dist.get_world_size(), local_rank)

    @property
    def is_main(self) -> bool:
        """Whether this process is the one that writes."""
        return self.rank == 0

    @property
    def alone(self) -> bool:
        """Whether there is no other process."""
        return self.size == 1

    def device(self, wanted: torch.device) -> torch.device:
        """Return the device of this process: for "cuda" without a number, the one of its local rank."""
        numberless = wanted == torch.device("cuda")
        return torch.device("cuda", self.local_rank) if numberless and not self.alone else wanted

    def wrap(self, model: nn.Module) -> nn.Module:
        """Return the model as it is to be called in training, so that gradients are averaged. Collective.

        The parameters are the model's own, which from now on have the values of rank 0. Alone, it is the model.
        """
        if self.alone:
            return model
        device = next(model.parameters()).device
        return DistributedDataParallel(model, device_ids=None if device.type == "cpu" else [device])

    def share(self, x: Tensor, y: Tensor) -> Share:
        """Return this rank's share of a batch that all ranks have alike."""
        return share(x, y, rank=self.rank, size=self.size)

    def total(self, x: Tensor) -> Tensor:
        """Return the sum of a tensor over all ranks, a new tensor. Collective."""
        x = x.detach().clone()
        if not self.alone:
            dist.all_reduce(x)
        return x

    def any(self, flag: bool) -> bool:
        """Tell whether a flag is set on any rank, such as that an interrupt was asked for. Collective."""
        if self.alone:
            return flag
        flags = torch.tensor(int(flag))
        dist.all_reduce(flags, op=dist.ReduceOp.MAX)
        return bool(flags)

    def on_main(self, work: Callable[[], R]) -> R:
        """Do something on rank 0 alone and return on all ranks what it returned. Collective.

        Args:
            work: what it returns, which must pickle, goes to all ranks.

        Raises:
            Exception: on rank 0, what `work` raised.
            RankError: on the others, with its message.
        """
        if self.alone:
            return work()
        outcome = _Outcome.of(work) if self.is_main else _Outcome()
        told: list[Any] = [outcome.told()]
        dist.broadcast_object_list(told, src=0)
        outcome.raise_own()
        result: R = _opened(told[0], 0)
        return result

    def spread(self, items: Sequence[T], work: Callable[[T], R]) -> list[R]:
        """Do pieces of work, each on one rank, and return all results on all ranks, in the order of items. Collective.

        Args:
            items: the same on all ranks; rank r does the r-th of every `size`.
            work: does one of them; what it returns must pickle.

        Raises:
            Exception: on a rank whose work failed, what it raised.
            RankError: on the others, with its message.
        """
        if self.alone:
            return [work(item) for item in items]
        own = _Outcome.of(lambda: [work(item) for item in items[self.rank :: self.size]])
        told: list[Any] = [None] * self.size
        dist.all_gather_object(told, own.told())
        own.raise_own()
        results = [_opened(each, rank) for rank, each in enumerate(told)]
        return [results[i % self.size][i // self.size] for i in range(len(items))]


@dataclass(frozen=True)
class _Outcome:
    """What came of a piece of work: a value, or an error."""

    value: Any = None
    error: Exception | None = None

    @staticmethod
    def of(work: Callable[[], Any]) -> _Outcome:
        try:
            return _Outcome(work())
        except Exception as error:  # noqa: BLE001  (raised again once the others know)
            return _Outcome(error=error)

    def told(self) -> tuple[Any, str | None]:
        """Return what other ranks are told; of an error the message, since it need not pickle."""
        return self.value, None if self.error is None else f"{type(self.error).__name__}: {self.error}"

    def raise_own(self) -> None:
        if self.error is not None:
            raise self.error


def _opened(told: tuple[Any, str | None], rank: int) -> Any:  # noqa: ANN401  (what the work returned)
    value, message = told
    if message is not None:
        raise RankError(f"rank {rank} failed with {message}")
    return value
