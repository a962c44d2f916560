"""Models that send rows to some of their layers, as their own numbers say."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Experts(nn.Module):
    """A mixture of experts: each row goes to the two that its gate prefers."""

    def __init__(self, width: int = 16, experts: int = 4) -> None:
        super().__init__()
        self.stem = nn.Linear(8, width)
        self.gate = nn.Linear(width, experts, bias=False)
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(width, 32), nn.GELU(), nn.Linear(32, width)) for _ in range(experts)
        )
        self.head = nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        rows = x.reshape(-1, x.shape[-1])
        weights, chosen = self.gate(rows).softmax(-1).topk(2, -1)
        out = torch.zeros_like(rows)
        for number, expert in enumerate(self.experts):
            row, place = torch.where(chosen == number)
            if row.numel():
                out.index_add_(0, row, expert(rows[row]) * weights[row, place, None])
        return self.head(out.view(x.shape) + x)


def build(seed: int = 0) -> tuple[Experts, Tensor]:
    """Return a mixture of experts and an example."""
    torch.manual_seed(seed)
    return Experts().eval(), torch.randn(3, 6, 8)
