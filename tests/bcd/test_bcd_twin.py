"""A slow twin: every block by an independent solver, on an objective that is written out without the package."""

from dataclasses import replace

import pytest
import torch
from chains import NETS, Blocks, objective, reached
from torch.autograd.functional import hessian

from pliant.bcd import BlockCoordinateDescent, CrossEntropy, HardMode, Hinge, PenaltyMode, Squared
from pliant.sets import RankSet, SparseSet

RHO, GAMMA, TAU, ALPHA = 0.7, 1.3, 0.4, 0.9
WEIGHTS = {"rho": RHO, "gamma": GAMMA, "tau": TAU}
# the package's loss; the same written out, entry by entry or as a whole; whether it is separable over entries
LOSSES = {
    "squared": (Squared(), lambda v, y: 0.5 * (v - one_hot(y, v)).square(), True),
    "hinge": (Hinge(), lambda v, y: (1 - (2 * one_hot(y, v) - 1) * v).clamp(min=0), True),
    "cross-entropy": (CrossEntropy(), lambda v, y: torch.nn.functional.cross_entropy(v, y, reduction="sum"), False),
}


def one_hot(y, like):
    return torch.nn.functional.one_hot(y, like.shape[-1]).to(like.dtype)


def quadratic_minimum(function, start):
    """The minimum of a quadratic, from its gradient and its Hessian."""
    flat = start.flatten()
    shaped = lambda z: function(z.view(start.shape))  # noqa: E731
    z = torch.zeros_like(flat).requires_grad_()
    (gradient,) = torch.autograd.grad(shaped(z), z)
    return torch.linalg.solve(hessian(shaped, z.detach()), -gradient).view(start.shape)


def scalar_minimum(function, low, high, rounds=12):
    """The minimum of functions of one variable each, by grids that grow finer around the best point."""
    for _ in range(rounds):
        grid = torch.stack([low.lerp(high, t) for t in torch.linspace(0, 1, 201, dtype=low.dtype).tolist()])
        best = function(grid).argmin(0, keepdim=True)
        width = (high - low) / 200
        middle = grid.gather(0, best)[0]
        low, high = middle - width, middle + width
    return (low + high) / 2


class Twin:
    """One sweep, block by block."""

    def __init__(self, net, model, data, loss, *, sets, mode):
        x, y = data
        self.net, self.model, self.sets, self.mode = net, model, sets, mode
        self.points = {i: s.project(model.get_submodule(net.stages[i].layer).weight.detach()) for i, s in sets.items()}
        self.blocks = Blocks.start(net, model, x, {i: p.dense for i, p in self.points.items()})
        function, separable = loss
        self.entries = (lambda v: function(v, y), separable)
        self.loss = lambda v: function(v, y).sum()

    def value(self, **blocks):
        return objective(self.net, self.model, replace(self.blocks, **blocks), self.loss, **WEIGHTS)

    def with_activations(self, index, v):
        return [*self.blocks.activations[:index], v, *self.blocks.activations[index + 1 :]]

    def outputs(self):
        old, u = self.blocks.activations[-1], self.blocks.linear[-1]
        wish = self.net.stages[-1].activation(u)
        entries, separable = self.entries
        if separable:
            size = 2 + 2 * (old.abs() + wish.abs())
            cost = lambda v: entries(v) + 0.5 * GAMMA * (v - wish) ** 2 + 0.5 * ALPHA * (v - old) ** 2  # noqa: E731
            self.blocks.activations[-1] = scalar_minimum(cost, -size, size)
        else:
            self.blocks.activations[-1] = self.newton(old)

    def newton(self, old):
        """Plain Newton steps with the whole Hessian: enough for cross-entropy at these penalties."""

        def cost(v):
            f = self.value(activations=self.with_activations(len(self.net.stages), v))
            return f + 0.5 * ALPHA * (v - old).square().sum()

        v = old.clone()
        for _ in range(8):
            flat = v.flatten().requires_grad_()
            (gradient,) = torch.autograd.grad(cost(flat.view_as(v)), flat)
            shaped = hessian(lambda z: cost(z.view_as(old)), flat.detach())
            v = (flat.detach() - torch.linalg.solve(shaped, gradient)).view_as(v)
        return v

    def hidden(self, index):
        found = quadratic_minimum(
            lambda v: self.value(activations=self.with_activations(index, v)), self.blocks.activations[index]
        )
        self.blocks.activations[index] = found

    def linear(self, index):
        stage, old = self.net.stages[index], self.blocks.linear[index]
        b, a = reached(self.net, self.model, self.blocks, index), self.blocks.activations[index + 1]
        prox = 0.0 if index == len(self.net.stages) - 1 else ALPHA

        def cost(u):
            return RHO * (u - b) ** 2 + GAMMA * (a - stage.activation(u)) ** 2 + prox * (u - old) ** 2

        size = 1 + a.abs() + b.abs() + old.abs()
        negative = scalar_minimum(cost, -2 * size, torch.zeros_like(b))  # the kink is at 0: each side is smooth
        positive = scalar_minimum(cost, torch.zeros_like(b), 2 * size)
        self.blocks.linear[index] = torch.where(cost(negative) <= cost(positive), negative, positive)

    def weight(self, index):
        old, bias = self.blocks.weights[index], self.blocks.biases[index]
        start = old.flatten() if bias is None else torch.cat((old.flatten(), bias))

        def cost(z):
            w, b = z[: old.numel()].view_as(old), None if bias is None else z[old.numel() :]
            weights = [*self.blocks.weights[:index], w, *self.blocks.weights[index + 1 :]]
            biases = [*self.blocks.biases[:index], b, *self.blocks.biases[index + 1 :]]
            return self.value(weights=weights, biases=biases) + 0.5 * ALPHA * (z - start).square().sum()

        found = quadratic_minimum(cost, start)
        self.blocks.weights[index] = found[: old.numel()].view_as(old)
        if bias is not None:
            self.blocks.biases[index] = found[old.numel() :]

    def copy(self, index):
        weight, old = self.blocks.weights[index], self.points[index]
        hard = isinstance(self.mode, HardMode)
        target = weight if hard else (TAU * weight + ALPHA * old.dense) / (TAU + ALPHA)
        self.points[index] = self.sets[index].project(target)
        self.blocks.copies[index] = self.points[index].dense
        if hard:
            self.blocks.weights[index] = self.points[index].dense

    def sweep(self):
        last = len(self.net.stages)
        for index in range(last, 0, -1):
            self.outputs() if index == last else self.hidden(index)
            self.linear(index - 1)
            self.weight(index - 1)
            if index - 1 in self.points:
                self.copy(index - 1)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("name", ["perceptron", "residual"])
def test_sweeps_are_those_of_an_independent_solver(name, loss):
    check(name, loss, PenaltyMode(), sweeps=3)


@pytest.mark.parametrize("name", ["one layer", "linear inside", "images", "residual images"])
def test_sweeps_of_every_kind_of_layer_are_those_of_an_independent_solver(name):
    check(name, "squared", PenaltyMode(), sweeps=2)


def test_hard_sweeps_are_those_of_an_independent_solver():
    check("perceptron", "squared", HardMode(), sweeps=3)


def check(name, loss, mode, sweeps):
    net = NETS[name]
    model, twin_model = net.model(), net.model()
    samples = 3 if len(net.inputs) > 1 else 9
    x, y = net.data(samples)
    ours, *theirs = LOSSES[loss]
    sets = {index: one for index, one in enumerate((SparseSet(0.4), RankSet(1))) if index < len(net.stages)}
    twin = Twin(net, twin_model, (x, y), theirs, sets=sets, mode=mode)
    bcd = BlockCoordinateDescent(
        model, {net.stages[i].layer: one for i, one in sets.items()}, rho=RHO, gamma=GAMMA, tau=TAU, alpha=ALPHA,
        loss=ours, mode=mode, chunk=4, conjugate_steps=150,
    )  # fmt: skip
    for _ in range(sweeps):
        bcd.sweep(x, y)
        twin.sweep()
    close = {"rtol": 1e-6, "atol": 1e-6}
    for mine, other in zip(bcd.samples.activations, twin.blocks.activations, strict=True):
        torch.testing.assert_close(mine, other, **close)
    for mine, other in zip(bcd.samples.linear, twin.blocks.linear, strict=True):
        torch.testing.assert_close(mine, other, **close)
    for stage, weight, bias in zip(net.stages, twin.blocks.weights, twin.blocks.biases, strict=True):
        layer = model.get_submodule(stage.layer)
        torch.testing.assert_close(layer.weight.detach(), weight, **close)
        if bias is not None:
            torch.testing.assert_close(layer.bias.detach(), bias, **close)
    for index, point in twin.points.items():
        torch.testing.assert_close(bcd.copies()[net.stages[index].layer].dense, point.dense, **close)
    torch.testing.assert_close(bcd.objective().total, twin.value(), **close)
