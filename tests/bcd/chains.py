"""Small networks, and the objective and the stages of each written out without the package."""

from dataclasses import dataclass
from itertools import count

import torch
import torch.nn.functional as F
from torch import nn


class Residual(nn.Module):
    """Two sums: one over a branch of two layers, one with the network's own input."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(6, 6)
        self.second = nn.Linear(6, 5)
        self.third = nn.Linear(5, 6, bias=False)
        self.fourth = nn.Linear(6, 6)
        self.last = nn.Linear(6, 3)

    def forward(self, x):
        one = F.relu(self.first(x))
        three = torch.relu(self.third(F.leaky_relu(self.second(one), 0.2)) + one)
        four = (x + self.fourth(three)).relu()
        return self.last(four)


class ResidualImages(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 3, 3, padding=1)
        self.one = nn.Conv2d(3, 4, 3, padding="same", bias=False)
        self.two = nn.Conv2d(4, 3, 3, padding=1)
        self.pool = nn.AdaptiveAvgPool2d(2)
        self.last = nn.Linear(12, 3)

    def forward(self, x):
        stem = F.relu(self.stem(x))
        both = torch.add(stem, self.two(F.relu(self.one(stem))))
        return self.last(torch.flatten(self.pool(F.relu(both)), 1))


@dataclass(frozen=True)
class Stage:
    layer: str
    activation: object  # a function of tensors
    slope: float  # of its negative half
    before: object = lambda v: v
    skip: int | None = None  # a place among the activations, 0 for the input


def rectified(layer, slope=0.0, **more):
    return Stage(layer, lambda u: F.leaky_relu(u, slope), slope, **more)


def plain(layer, **more):
    return Stage(layer, lambda u: u, 1.0, **more)


def flat(v):
    return v.flatten(1)


@dataclass(frozen=True)
class Net:
    build: object
    stages: tuple
    inputs: tuple

    def model(self, dtype=torch.float64, seed=0):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return self.build().to(dtype)

    def data(self, samples=9, dtype=torch.float64, seed=1):
        generator = torch.Generator().manual_seed(seed)
        x = torch.randn(samples, *self.inputs, generator=generator, dtype=torch.float64).to(dtype)
        return x, torch.randint(3, (samples,), generator=generator)


NETS = {
    "one layer": Net(lambda: nn.Sequential(nn.Linear(6, 3)), (plain("0"),), (6,)),
    "perceptron": Net(
        lambda: nn.Sequential(
            nn.Sequential(nn.Linear(6, 7), nn.ReLU()), nn.Linear(7, 4, bias=False), nn.LeakyReLU(0.1), nn.Linear(4, 3)
        ),
        (rectified("0.0"), rectified("1", 0.1), plain("3")),
        (6,),
    ),
    "linear inside": Net(
        lambda: nn.Sequential(nn.Linear(6, 2), nn.Linear(2, 8), nn.Identity(), nn.ReLU(), nn.Linear(8, 3), nn.ReLU()),
        (plain("0"), rectified("1"), rectified("4")),
        (6,),
    ),
    "residual": Net(
        Residual,
        (
            rectified("first"),
            rectified("second", 0.2),
            rectified("third", skip=1),
            rectified("fourth", skip=0),
            plain("last"),
        ),
        (6,),
    ),
    "images": Net(
        lambda: nn.Sequential(
            nn.Conv2d(2, 3, 3, stride=2, padding=(1, 0)),
            nn.ReLU(),
            nn.AvgPool2d(2, stride=1),
            nn.Conv2d(3, 2, 2, dilation=2, padding=1, bias=False),
            nn.LeakyReLU(0.3),
            nn.AvgPool2d(2, padding=1),
            nn.Flatten(),
            nn.Linear(8, 3),
        ),
        (
            rectified("0"),
            rectified("3", 0.3, before=nn.AvgPool2d(2, stride=1)),
            plain("7", before=lambda v: flat(F.avg_pool2d(v, 2, padding=1))),
        ),
        (2, 8, 9),
    ),
    "residual images": Net(
        ResidualImages,
        (
            rectified("stem"),
            rectified("one"),
            rectified("two", skip=1),
            plain("last", before=lambda v: flat(F.adaptive_avg_pool2d(v, 2))),
        ),
        (1, 5, 4),
    ),
}


@dataclass
class Blocks:
    """Everything that is minimised over, plain tensors."""

    activations: list
    linear: list
    weights: list
    biases: list
    copies: dict

    @classmethod
    def start(cls, net, model, x, copies):
        layers = [model.get_submodule(stage.layer) for stage in net.stages]
        weights = [layer.weight.detach().clone() for layer in layers]
        biases = [None if layer.bias is None else layer.bias.detach().clone() for layer in layers]
        blocks = cls([x], [], weights, biases, dict(copies))
        for index, stage in enumerate(net.stages):
            blocks.linear.append(reached(net, model, blocks, index))
            blocks.activations.append(stage.activation(blocks.linear[-1]))
        return blocks


def reached(net, model, blocks, index):
    """W V + b of a stage, by the model's own layer."""
    stage, weight, bias = net.stages[index], blocks.weights[index], blocks.biases[index]
    parameters = {"weight": weight} if bias is None else {"weight": weight, "bias": bias}
    layer = model.get_submodule(stage.layer)
    out = torch.func.functional_call(layer, parameters, (stage.before(blocks.activations[index]),))
    return out if stage.skip is None else out + blocks.activations[stage.skip]


def objective(net, model, blocks, loss, *, rho, gamma, tau):
    """F, literally."""
    value = loss(blocks.activations[-1])
    for index, stage in zip(count(), net.stages, strict=False):
        u, v = blocks.linear[index], blocks.activations[index + 1]
        value = value + 0.5 * rho * (reached(net, model, blocks, index) - u).square().sum()
        value = value + 0.5 * gamma * (v - stage.activation(u)).square().sum()
    for index, copy in blocks.copies.items():
        value = value + 0.5 * tau * (blocks.weights[index] - copy).square().sum()
    return value
