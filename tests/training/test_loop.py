"""The closure protocol: who calls it how often, and what is counted."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.optim import LBFGS, SGD

from pliant.training import fit


class Fixed:
    """Three batches, the same in every epoch."""

    def __init__(self):
        draws = torch.Generator().manual_seed(0)
        self.batches = [(torch.randn(8, 4, generator=draws), torch.randint(3, (8,), generator=draws)) for _ in range(3)]

    def set_epoch(self, epoch):
        pass

    def __len__(self):
        return len(self.batches)

    def __iter__(self):
        return iter(self.batches)


class Lazy(SGD):
    def step(self, closure=None):
        del closure


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Linear(4, 3)


def test_sgd_is_the_loop_that_everybody_writes(model):
    twin = nn.Linear(4, 3)
    twin.load_state_dict(model.state_dict())
    fit(model, SGD(model.parameters(), lr=0.1, momentum=0.9), Fixed(), epochs=2)
    optimizer = SGD(twin.parameters(), lr=0.1, momentum=0.9)
    for x, y in [*Fixed(), *Fixed()]:
        optimizer.zero_grad()
        F.cross_entropy(twin(x), y).backward()
        optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), twin.parameters(), strict=True))


def test_every_gradient_is_counted_and_the_first_one_makes_the_rows(model):
    results = []
    first = float(F.cross_entropy(model(Fixed().batches[0][0]), Fixed().batches[0][1]).detach())
    seen = []
    optimizer = LBFGS(model.parameters(), max_iter=4, max_eval=4)
    position = fit(
        model, optimizer, Fixed(), epochs=2, on_epoch=results.append, on_step=lambda p: seen.append(p.mean_loss())
    )
    assert 6 < position.evaluations <= 4 * 6
    assert seen[0] == pytest.approx(first)
    once = fit(model, SGD(model.parameters(), lr=0.1), Fixed(), epochs=2)
    assert once.evaluations == 6


def test_an_optimizer_that_ignores_the_closure_is_told_so(model):
    with pytest.raises(ValueError, match=r"Lazy\.step must call the closure"):
        fit(model, Lazy(model.parameters(), lr=0.1), Fixed(), epochs=1)
