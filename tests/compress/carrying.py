"""A residual net, a cut of it by hand, and what the cut should make of tensors, all without the code under test."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import nn

from pliant.compress.cut import Cut
from pliant.structure.channels import ChannelGroup, Listed, Member, Regular, Role

CUT_WIDTHS = (5, 3, 2)


class Net(nn.Module):
    """A residual block, a grouped convolution and a linear layer; `width`, `inner` and `grouped` can be cut."""

    def __init__(self, width=8, inner=6, grouped=4):
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(width)
        self.conv1 = nn.Conv2d(width, inner, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.point = nn.Conv2d(width, 2 * grouped, 1)
        self.conv3 = nn.Conv2d(2 * grouped, 3 * grouped, 3, groups=grouped)
        self.fc = nn.Linear(3 * grouped, 5)

    def forward(self, x):
        x = F.relu(self.bn(self.stem(x)))
        x = F.relu(x + self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))
        return self.fc(F.relu(self.conv3(self.point(x).tanh())).mean((2, 3)))


def member(tensor, dim, size, atoms, role=Role.OTHER):
    block = size // atoms
    return Member(tensor, dim, size, Regular(0, atoms, 0, block, ((block, 1),) if block > 1 else ()), role)


def _norm(name, size):
    return [member(f"{name}.{t}", 0, size, size) for t in ("weight", "bias", "running_mean", "running_var")]


def groups():
    stream = [member("stem.weight", 0, 8, 8), *_norm("bn", 8), *_norm("bn2", 8)]
    stream += [member("conv2.weight", 0, 8, 8), member("conv1.weight", 1, 8, 8), member("point.weight", 1, 8, 8)]
    inner = [member("conv1.weight", 0, 6, 6), *_norm("bn1", 6), member("conv2.weight", 1, 6, 6)]
    grouped = [member("point.weight", 0, 8, 4), member("point.bias", 0, 8, 4), member("conv3.weight", 0, 12, 4)]
    grouped += [member("conv3.bias", 0, 12, 4)]
    grouped += [Member("fc.weight", 1, 12, Listed(tuple((3 * i, 3 * i + 1, 3 * i + 2) for i in range(4))), Role.INPUT)]
    return {
        "stem": ChannelGroup("stem", 8, tuple(stream)),
        "conv1": ChannelGroup("conv1", 6, tuple(inner)),
        "point": ChannelGroup("point", 4, tuple(grouped)),
    }


def cut():
    """Keep five channels of the residual stream, three inside the block and two groups of the grouped convolution."""
    return Cut(
        compressor="FilterPruning",
        options={},
        fraction=0.5,
        atoms={"stem": 8, "conv1": 6, "point": 4},
        kept={"stem": (0, 2, 3, 6, 7), "conv1": (1, 4, 5), "point": (0, 3)},
        groups=groups(),
    )


# What the cut leaves, written down once more: tensor -> (dimension, positions that stay).
STREAM, INNER = [0, 2, 3, 6, 7], [1, 4, 5]
OUTPUTS = [0, 1, 2, 9, 10, 11]
LEFT = {
    "stem.weight": [(0, STREAM)],
    "conv1.weight": [(0, INNER), (1, STREAM)],
    "conv2.weight": [(0, STREAM), (1, INNER)],
    "point.weight": [(0, [0, 1, 6, 7]), (1, STREAM)],
    "point.bias": [(0, [0, 1, 6, 7])],
    "conv3.weight": [(0, OUTPUTS)],
    "conv3.bias": [(0, OUTPUTS)],
    "fc.weight": [(1, OUTPUTS)],
}
for _norm_name, _stay in (("bn", STREAM), ("bn2", STREAM), ("bn1", INNER)):
    LEFT |= {f"{_norm_name}.{t}": [(0, _stay)] for t in ("weight", "bias", "running_mean", "running_var")}


def sliced(name, tensor):
    """Return what is left of a tensor."""
    for dim, stay in LEFT.get(name, ()):
        tensor = torch.stack([tensor.select(dim, i) for i in stay], dim)
    return tensor.contiguous()


def masks(model):
    """Return for every tensor of the model 1 where it stays and 0 where it goes."""
    found = {}
    for name, tensor in model.state_dict().items():
        mask = torch.ones_like(tensor)
        for dim, stay in LEFT.get(name, ()):
            gone = sorted(set(range(tensor.shape[dim])) - set(stay))
            mask.index_fill_(dim, torch.tensor(gone), 0)
        found[name] = mask
    return found


def holding(model, optimizer):
    """Return what puts zeros where the cut removes something: in weights, their gradients and their state."""
    mask = masks(model)

    @torch.no_grad()
    def hold():
        for name, p in model.named_parameters():
            for x in (p, p.grad, *optimizer.state[p].values()):
                if torch.is_tensor(x) and x.shape == p.shape:
                    x.mul_(mask[name])

    return hold


def assert_one_way(model, optimizer, small, carried, rtol=1e-10):
    """Train both on, the large model with zeros where the cut removes something, and compare what stays."""
    hold, data = holding(model, optimizer), batches(5, torch.float64, seed=8)
    hold()
    train(model, optimizer, data, after_backward=hold)
    train(small, carried, data)
    expected = small_of(model).state_dict()
    for name, value in small.state_dict().items():
        torch.testing.assert_close(value, expected[name], rtol=rtol, atol=1e-10)


def small_of(model):
    """Build the small model from the factory, with what is left of the weights."""
    small = Net(*CUT_WIDTHS).to(next(model.parameters()).dtype)
    small.load_state_dict({name: sliced(name, tensor) for name, tensor in model.state_dict().items()})
    return small.train(model.training)


def build(dtype=torch.float32, seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Net().to(dtype)


def batches(count, dtype=torch.float32, seed=7):
    draws = torch.Generator().manual_seed(seed)
    return [
        (torch.randn(4, 3, 6, 6, generator=draws, dtype=dtype), torch.randint(5, (4,), generator=draws))
        for _ in range(count)
    ]


def train(model, optimizer, data, after_backward=lambda: None, after_step=lambda: None):
    for x, y in data:
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        after_backward()
        optimizer.step()
        after_step()
    return model


def same_bits(one, other):
    one, other = one.state_dict(), other.state_dict()
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def rebuilt_state(optimizer, model, small, twin):
    """Fill the state of an optimizer of the small model, built by its own constructor, entry by entry."""
    names = {id(p): name for name, p in model.named_parameters()}
    fresh = dict(small.named_parameters())
    for p, entries in optimizer.state.items():
        name = names[id(p)]
        twin.state[fresh[name]] = {
            key: sliced(name, value.clone())
            if torch.is_tensor(value) and value.shape == p.shape
            else copy.deepcopy(value)
            for key, value in entries.items()
        }
    return twin
