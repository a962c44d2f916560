"""Architectures that no library brings."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class UNet(nn.Module):
    """Encoder and decoder with skip connections."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.ModuleList(self._block(a, b) for a, b in ((3, 8), (8, 12), (12, 16)))
        self.up = nn.ModuleList(nn.ConvTranspose2d(a, b, 2, stride=2) for a, b in ((16, 12), (12, 8)))
        self.join = nn.ModuleList(self._block(2 * b, b) for b in (12, 8))
        self.head = nn.Conv2d(8, 2, 1)

    @staticmethod
    def _block(a: int, b: int) -> nn.Sequential:
        return nn.Sequential(
            nn.Conv2d(a, b, 3, padding=1), nn.BatchNorm2d(b), nn.ReLU(), nn.Conv2d(b, b, 3, padding=1),
            nn.GroupNorm(4, b), nn.ReLU(),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        skips = []
        for index, block in enumerate(self.down):
            x = block(x if index == 0 else F.max_pool2d(x, 2))
            skips.append(x)
        for up, join, skip in zip(self.up, self.join, skips[-2::-1], strict=True):
            x = join(torch.cat((up(x), skip), 1))
        return self.head(x)


class AudioNet(nn.Module):
    """Raw audio to classes: wide first filters, strided one-dimensional convolutions."""

    def __init__(self) -> None:
        super().__init__()
        widths = (1, 8, 8, 16, 24)
        layers: list[nn.Module] = []
        for index, (a, b) in enumerate(pairwise(widths)):
            kernel, stride = (40, 4) if index == 0 else (3, 1)
            layers += [nn.Conv1d(a, b, kernel, stride), nn.BatchNorm1d(b), nn.ReLU(), nn.MaxPool1d(4)]
        self.features, self.head = nn.Sequential(*layers), nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        return F.log_softmax(self.head(self.features(x).mean(-1)), -1)
