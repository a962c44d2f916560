"""Batches: a split on the device, shuffled, augmented and normalised there."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

import numpy as np
import torch
from torch import Generator, Tensor

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pliant.data.augment import Augmentation
    from pliant.data.base import Split

_WHITE = 255


@final
class Batches:
    """A re-iterable sequence of normalised ``(x, y)`` batches.

    The whole split lives on the device as it is. An epoch draws one permutation; a batch is one gather,
    the augmentations, and ``x = scale * images + shift`` with ``scale = 1 / (255 std)``, of features
    ``1 / std``, and ``shift = -mean / std``. Order and augmentation of epoch ``e`` depend only on
    ``(seed, e)``: not on earlier iterations, the device or torch's global random state.

    Args:
        split: the labelled images.
        batch_size: images a batch, at least 1.
        mean: of each channel, of pixels scaled to [0, 1].
        std: of each channel, positive.
        augment: applied in this order, to uint8 images.
        shuffle: a new order every epoch; otherwise the split's order.
        drop_last: leave out a last batch smaller than ``batch_size``.
        seed: of order and augmentation, not negative.
        device: where images live and batches appear.
        dtype: of ``x``, floating point.
        channels_last: give ``x`` the channels-last memory format.

    Raises:
        ValueError: an argument is out of its range.
    """

    def __init__(
        self,
        split: Split,
        *,
        batch_size: int,
        mean: Sequence[float],
        std: Sequence[float],
        augment: Sequence[Augmentation] = (),
        shuffle: bool = False,
        drop_last: bool = False,
        seed: int = 0,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        channels_last: bool = False,
    ) -> None:
        _check_numbers(batch_size, seed, dtype)
        _check_moments(split.images.shape[1], mean, std)
        self.images = split.images.to(device)
        self.labels = split.labels.to(device)
        self.batch_size = batch_size
        self.augment = tuple(augment)
        self.shuffle = shuffle
        self.drop_last = drop_last
        self.seed = seed
        self.epoch = 0
        self.dtype = dtype
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        center, spread = (torch.tensor(value, dtype=torch.float64)[:, None, None] for value in (mean, std))
        self._scale = (1 / ((1 if split.holds_features else _WHITE) * spread)).to(device, torch.float32)
        self._shift = (-center / spread).to(device, torch.float32)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iterations run; it stays until it is set again.

        Raises:
            ValueError: the epoch is negative.
        """
        if epoch < 0:
            raise ValueError(f"epoch must be at least 0, found {epoch}")
        self.epoch = epoch

    def __len__(self) -> int:
        full, rest = divmod(len(self.labels), self.batch_size)
        return full + (rest > 0 and not self.drop_last)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        generator = _generator(self.seed, self.epoch)
        count = len(self.labels)
        order = torch.randperm(count, generator=generator) if self.shuffle else torch.arange(count)
        pieces = torch.split(order.to(self.labels.device), self.batch_size)
        for indices in pieces[: len(self)]:
            yield self._inputs(indices, generator), self.labels.index_select(0, indices)

    def _inputs(self, indices: Tensor, generator: Generator) -> Tensor:
        images = self.images.index_select(0, indices)
        for augmentation in self.augment:
            images = augmentation(images, generator)
        pixels = images.to(torch.float32, memory_format=self.memory_format)
        return torch.addcmul(self._shift, pixels, self._scale).to(self.dtype)


def _generator(seed: int, epoch: int) -> Generator:
    state = np.random.SeedSequence((seed, epoch)).generate_state(1, np.uint64)
    return Generator().manual_seed(int(state[0]))


def _check_numbers(batch_size: int, seed: int, dtype: torch.dtype) -> None:
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, found {batch_size}")
    if seed < 0:
        raise ValueError(f"seed must be at least 0, found {seed}")
    if not dtype.is_floating_point:
        raise ValueError(f"dtype must be a floating-point type, found {dtype}")


def _check_moments(channels: int, mean: Sequence[float], std: Sequence[float]) -> None:
    if not len(mean) == len(std) == channels:
        raise ValueError(f"mean and std need {channels} values each, found {len(mean)} and {len(std)}")
    if min(std) <= 0:
        raise ValueError(f"std must be positive in every channel, found {tuple(std)}")
