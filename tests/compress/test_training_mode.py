"""What runs in training mode alone is cut with what it reads, or stays by name."""

from __future__ import annotations

import copy
import logging

import pytest
import torch
from torch import nn

from pliant.compress import FilterPruning, compress


class WithTrainingHead(nn.Module):
    """A second head, with batch norm over one value per channel and sample, runs in training mode alone."""

    def __init__(self, broken=False):
        super().__init__()
        self.broken = broken
        self.stem, self.head = nn.Conv2d(3, 16, 3, padding=1), nn.Linear(16, 5)
        self.other = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 16))
        self.reduce, self.wide, self.norm = nn.Conv2d(16, 8, 1), nn.Conv2d(8, 12, 1), nn.BatchNorm2d(12)
        self.last = nn.Linear(12, 5)

    def forward(self, x):
        pooled = self.stem(x).relu().mean((2, 3), keepdim=True)
        found = self.head(self.other(pooled.flatten(1)))
        if not self.training:
            return found
        hidden = self.wide(self.reduce(pooled).relu())
        if self.broken:
            raise RuntimeError("no labels\nwere given")
        return found, self.last(self.norm(hidden).relu().flatten(1))


def seeded(**options):
    torch.manual_seed(0)
    return WithTrainingHead(**options).double().eval()


def images(count):
    return torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(1)).double()


@pytest.mark.parametrize("count", [1, 2])
def test_a_head_that_only_trains_is_cut_exactly_even_if_it_does_not_train_on_the_example(count):
    model = seeded()
    cut = FilterPruning().select(model, 0.5, example=images(count))
    truncated, realised = (step(model, cut).train() for step in (FilterPruning().truncate, FilterPruning().realise))
    assert realised.norm.num_features == 6
    for one, other in zip(truncated(images(4)), realised(images(4)), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


def test_what_only_training_uses_stays_if_the_model_cannot_train_on_the_example(caplog):
    model = seeded(broken=True)
    with caplog.at_level(logging.WARNING, "pliant"):
        done = compress(model, FilterPruning(), 0.5, example=images(2))
    told = "in training mode the model does not run on the example (RuntimeError: no labels)"
    assert any(told in message for message in caplog.messages)
    assert told in done.cut.skipped["reduce"]
    assert told in done.cut.skipped["stem"]  # the head reads it
    working = copy.deepcopy(done.model).train()
    working.broken = False
    assert [tuple(found.shape) for found in working(images(4))] == [(4, 5), (4, 5)]
