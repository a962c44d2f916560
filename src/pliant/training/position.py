"""Position: where a training run stands, exact to the batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from pliant.distributed import World


@dataclass(frozen=True)
class EpochResult:
    """One whole pass over the training set: 1 for the first, with mean loss and accuracy on the fly."""

    epoch: int
    loss: float
    accuracy: float


@dataclass
class Position:
    """Whole epochs done, batches of the one under way, and that one's sums, which stay on the device.

    Args:
        epoch: whole epochs done.
        batch: batches done in the epoch under way.
        seen: images seen in it.
        loss: sum of their losses.
        correct: how many of them were classified correctly.
        evaluations: gradients of a batch that were computed since the start.
    """

    epoch: int
    batch: int
    seen: int
    loss: Tensor
    correct: Tensor
    evaluations: int = 0

    @classmethod
    def start(cls, device: torch.device | str = "cpu") -> Self:
        """Return the position before the first batch."""
        return cls(0, 0, 0, torch.zeros((), device=device), torch.zeros((), dtype=torch.int64, device=device))

    @torch.no_grad()
    def count(
        self, loss: Tensor, scores: Tensor, labels: Tensor, evaluations: int = 1, world: World | None = None
    ) -> None:
        """Take note of a batch.

        Args:
            loss: its mean loss.
            scores: class scores ``(batch, classes)``.
            labels: shape ``(batch,)``.
            evaluations: gradients that its step took.
            world: the processes that each have a share of the batch; None: this one has all.
        """
        correct = (scores.argmax(-1) == labels).sum()
        sums = torch.stack([loss.detach().double() * len(labels), correct, torch.full_like(correct, len(labels))])
        sums = sums if world is None else world.total(sums)
        self.batch += 1
        self.evaluations += evaluations
        self.loss += sums[0]
        self.correct += sums[1].to(self.correct.dtype)
        self.seen += len(labels) if world is None else int(sums[2])

    def mean_loss(self) -> float:
        """Return the mean loss of the epoch so far; waits for the device."""
        return float(self.loss) / max(self.seen, 1)

    def accuracy(self) -> float:
        """Return the accuracy of the epoch so far, in [0, 1]; waits for the device."""
        return float(self.correct) / max(self.seen, 1)

    def finish_epoch(self) -> EpochResult:
        """Go on to the next epoch and return what this one gave."""
        self.epoch += 1
        result = EpochResult(self.epoch, self.mean_loss(), self.accuracy())
        self.batch = self.seen = 0
        self.loss.zero_()
        self.correct.zero_()
        return result

    def state_dict(self) -> dict[str, Any]:
        """Return plain data and tensors."""
        return {name: getattr(self, name) for name in (*_COUNTS, "loss", "correct")}

    @classmethod
    def from_state_dict(cls, state: dict[str, Any], device: torch.device | str = "cpu") -> Self:
        """Rebuild what `state_dict` returned."""
        tensors = {name: state[name].to(device) for name in ("loss", "correct")}
        return cls(**{name: state[name] for name in _COUNTS}, **tensors)


_COUNTS = ("epoch", "batch", "seen", "evaluations")
