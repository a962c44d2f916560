"""Repair without gradients for layers that no batch norm follows: their channels get back the spread they had."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from pliant.compress.replay import Hook, batches_of, check_reached, check_same, layers_in_order, run_until, watching
from pliant.structure.example import Example
from pliant.structure.matricise import axes_of, is_linear
from pliant.structure.norms import norm_after


def match_variance(model: nn.Module, reference: nn.Module, batches: Iterable[Example]) -> nn.Module:
    """Return a copy of a truncated model whose channels have the mean and spread that they had before the cut.

    With y the outputs of a channel on the batches before the cut and z those after it, its filter and bias become

        w <- s w,    b <- mean(y) + s (b - mean(z)),    s = sd(y) / sd(z)

    one layer after the other, in the order in which they run, so that each sees its repaired inputs. Channels that the
    cut removed stay zero, ranks stay what they are, and so do the zeros of single weights: `realise` of the result is
    exact as before. A layer without a bias gets the scale alone.

    Concerned are convolutions and linear layers with weights of their own, called once; those followed by batch or
    instance norm are left to `recalibrate_batchnorm`.

    Args:
        model: truncated, with the shapes of `reference`; left as it is.
        reference: the model before the cut; left as it is.
        batches: what both can be called with; training data. The model runs once for each of its layers.

    Raises:
        ValueError: if there is no batch, or the models have other parameters.

    Reference: the factor is that of Adaptive Signal Resuscitation, Zhan, Chen and Hu (2026), arXiv 2605.21426, as its
    abstract describes it. Different here: the means are corrected too, layers follow one another, those with batch
    norm are left out, and no factor is shrunk.
    """
    examples = batches_of(batches)
    check_same(model, reference)
    names = _targets(reference, examples[0])
    before = _moments(reference, names, examples)
    repaired = copy.deepcopy(model)
    for name in names:
        after = _moments(repaired, [name], examples)
        _rescale(repaired.get_submodule(name), before[name], after[name])
    return repaired


@dataclass
class _Moments:
    """Sums over the values of each channel, each of shape (channels,)."""

    count: int = 0
    total: Tensor = field(default_factory=lambda: torch.zeros((), dtype=torch.float64))
    squares: Tensor = field(default_factory=lambda: torch.zeros((), dtype=torch.float64))

    def add(self, rows: Tensor) -> None:
        self.count += rows.shape[1]
        self.total = self.total + rows.sum(1)
        self.squares = self.squares + rows.square().sum(1)

    @property
    def mean(self) -> Tensor:
        return self.total / self.count

    @property
    def variance(self) -> Tensor:
        """Zero where what is found is no more than rounding."""
        found = self.squares / self.count - self.mean**2
        return torch.where(found > _ROUNDING * self.squares / self.count, found, 0.0)


_ROUNDING = 1e-12  # of float64 sums of float32 values


def _targets(model: nn.Module, example: Example) -> list[str]:
    """Return the layers to repair, in the order in which they run."""
    normed = norm_after(model, example)
    return [name for name in layers_in_order(model, example) if name not in normed]


def _moments(model: nn.Module, names: Sequence[str], examples: Sequence[Example]) -> dict[str, _Moments]:
    """Return the moments of the outputs of layers, given in the order in which they run."""
    found = {name: _Moments() for name in names}
    with watching(model, {name: _adding(moments) for name, moments in found.items()}):
        for example in examples if names else ():
            run_until(model, example, names[-1])
    check_reached(names, {name: moments.count for name, moments in found.items()})
    return found


def _adding(moments: _Moments) -> Hook:
    def add(layer: nn.Module, _: object, output: Tensor) -> None:
        channel = -1 if is_linear(layer) else 1 - layer.get_parameter("weight").ndim
        moments.add(output.double().movedim(channel, 0).flatten(1))

    return add


@torch.no_grad()
def _rescale(layer: nn.Module, before: _Moments, after: _Moments) -> None:
    weight = layer.get_parameter("weight")
    axes = axes_of(layer, "weight")
    rows = axes.to_matrices(weight.double())
    removed = rows.eq(0).all(-1).flatten()
    dead = (before.variance == 0) | (after.variance == 0)
    scale = torch.where(removed | dead, 1.0, (before.variance / after.variance).sqrt())
    weight.copy_(axes.from_matrices(rows * scale.view(rows.shape[:2])[..., None], weight.shape))
    for name, bias in layer.named_parameters(recurse=False):
        if name == "bias":
            bias.copy_(torch.where(removed, bias, before.mean + scale * (bias - after.mean)))
    torch.clear_autocast_cache()  # an autocast around all this would go on with the weights from before
