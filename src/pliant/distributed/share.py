"""This rank's share of a batch that all ranks know."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Share:
    """The images of one rank, and what makes the average over ranks the mean over the whole batch.

    Args:
        x: images, at least one.
        y: their labels.
        weight: multiplies the mean loss of the share; the average of these products over all ranks is the mean loss of
            the batch, and so with the gradients that `DistributedDataParallel` and FSDP average.
        count: how many of the images count: all, or none where there were too few for all ranks.
    """

    x: Tensor
    y: Tensor
    weight: float
    count: int


def share(x: Tensor, y: Tensor, *, rank: int, size: int) -> Share:
    """Return one rank's share of a batch, of consecutive images; shares differ by one image at most.

    A rank that there is no image for gets the first, with weight 0: it has to take part in every exchange of gradients.

    Args:
        x: images ``(batch, ...)``, at least one, the same on all ranks.
        y: labels ``(batch,)``.
        rank: from 0.
        size: number of ranks.

    Raises:
        ValueError: the batch is empty, or there is no such rank.

    >>> import torch
    >>> [share(torch.arange(5), torch.arange(5), rank=rank, size=3).x.tolist() for rank in range(3)]
    [[0, 1], [2, 3], [4]]
    """
    if not 0 <= rank < size:
        raise ValueError(f"rank must be from 0 to {size - 1}, found {rank}")
    if len(x) == 0 or len(x) != len(y):
        raise ValueError(f"a batch needs as many images as labels, at least one, found {len(x)} and {len(y)}")
    mine, labels = x.tensor_split(size)[rank], y.tensor_split(size)[rank]
    count = len(mine)
    return Share(mine, labels, count * size / len(x), count) if count else Share(x[:1], y[:1], 0.0, 0)
