"""Operators: any compressor as a fast map of the weights in place, for methods that compress at every step."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import singledispatch

import torch
from torch import Tensor, nn

from pliant.compress.atom_scores import scores_of
from pliant.compress.atoms import lowest
from pliant.compress.channel_survey import ChannelSurvey
from pliant.compress.compressor import Compressor
from pliant.compress.filters import FilterPruning
from pliant.compress.low_rank import LowRank
from pliant.compress.ranks import EqualFraction
from pliant.compress.truncation import Truncation, decompose, nearly_truncated
from pliant.compress.unstructured import UnstructuredPruning
from pliant.regions.axes import Axes
from pliant.structure.channels import removed_slices
from pliant.structure.example import Example
from pliant.structure.matricise import axes_in
from pliant.structure.norms import norm_after

Gate = Callable[[Tensor], Tensor]


class Operator(ABC):
    """A compressor, set up once for one model, that truncates the model's weights in place at any fraction.

    The weights become those of `compressor.truncate(model, compressor.select(model, fraction))`, without surgery and
    without looking at the model's structure again; nearly so for the ranks of large layers, see `operator_of`.
    """

    @abstractmethod
    def compress(self, fraction: float) -> Mapping[Tensor, Gate]:
        """Truncate the weights of the model in place, without gradient tracking.

        Args:
            fraction: of the atoms that are removed, 0 <= fraction < 1.

        Returns:
            parameter -> what of its gradient belongs to the kept atoms; other parameters keep theirs.
        """


@singledispatch
def operator_of(compressor: Compressor, model: nn.Module, example: Example) -> Operator:
    """Return a compressor as an operator on the weights of a model.

    Channels, singular values and single weights are truncated in place. Where `LowRank` takes the same share of the
    rank of every layer, and more than three quarters, large matrices (256 rows and columns or more) get their rank by
    subspace iteration, with an error that was up to 1.02 times the least for random weights. A compressor of another
    kind selects and truncates anew in every step, which is slow, and lets through the gradient of what it has not made
    zero.

    Args:
        compressor: any.
        model: whose weights are truncated; its architecture must not change afterwards.
        example: what it can be called with.
    """
    return _Selected(compressor, model, example)


@operator_of.register
def _of_filters(compressor: FilterPruning, model: nn.Module, example: Example) -> Operator:
    return _Channels(compressor, model, compressor.survey(model, example), norm_after(model, example))


@operator_of.register
def _of_low_rank(compressor: LowRank, model: nn.Module, example: Example) -> Operator:
    return _Ranks(compressor, model, tuple(compressor.select(model, 0.0, example=example).atoms))


@operator_of.register
def _of_unstructured(compressor: UnstructuredPruning, model: nn.Module, example: Example) -> Operator:
    return _Entries(compressor, model, tuple(compressor.select(model, 0.0, example=example).atoms))


@dataclass(frozen=True, eq=False)
class _Channels(Operator):
    compressor: FilterPruning
    model: nn.Module
    survey: ChannelSurvey
    norms: Mapping[str, str]

    @torch.no_grad()
    def compress(self, fraction: float) -> Mapping[Tensor, Gate]:
        groups, score = self.survey.groups, self.compressor.score
        scores = [scores_of(self.model, group, self.norms, score) for group in groups]
        now = replace(self.survey, scores=scores)
        slices = removed_slices(groups, now.kept(now.shares(fraction)))
        gates: dict[Tensor, Gate] = {}
        for name, parameter in self.model.named_parameters():
            if name in slices:
                gates[parameter] = _Slices(tuple((dim, torch.tensor(places)) for dim, places in slices[name]))
                parameter.copy_(gates[parameter](parameter))
        return gates


@dataclass(frozen=True, eq=False)
class _Slices:
    """Sets slices of a tensor to zero."""

    removed: Sequence[tuple[int, Tensor]]

    def __call__(self, tensor: Tensor) -> Tensor:
        for dim, places in self.removed:
            tensor = tensor.index_fill(dim, places.to(tensor.device), 0.0)
        return tensor


@dataclass(frozen=True, eq=False)
class _Entries(Operator):
    compressor: UnstructuredPruning
    model: nn.Module
    names: Sequence[str]

    @torch.no_grad()
    def compress(self, fraction: float) -> Mapping[Tensor, Gate]:
        weights = [self.model.get_parameter(name) for name in self.names]
        magnitudes = [weight.abs().flatten() for weight in weights]
        masks = self.compressor.scope.removed(magnitudes, fraction)
        gates: dict[Tensor, Gate] = {}
        for weight, magnitude, mask in zip(weights, magnitudes, masks, strict=True):
            # A scope may break ties of a layer in another way than `truncate`, which is told how many go.
            gone = lowest(magnitude, int(mask.sum())).view(weight.shape)
            gates[weight] = _Mask(gone)
            weight.masked_fill_(gone, 0.0)
        return gates


@dataclass(frozen=True, eq=False)
class _Mask:
    """Sets entries of a tensor to zero."""

    removed: Tensor

    def __call__(self, tensor: Tensor) -> Tensor:
        return tensor.masked_fill(self.removed, 0.0)


@dataclass(frozen=True, eq=False)
class _Ranks(Operator):
    compressor: LowRank
    model: nn.Module
    names: Sequence[str]

    @torch.no_grad()
    def compress(self, fraction: float) -> Mapping[Tensor, Gate]:
        layers = [self.model.get_submodule(name) for name in self.names]
        weights = [layer.get_parameter("weight") for layer in layers]
        axes = [axes_in(self.compressor.scheme, layer) for layer in layers]
        matrices = [one.to_matrices(weight) for one, weight in zip(axes, weights, strict=True)]
        gates: dict[Tensor, Gate] = {}
        for weight, one, near in zip(weights, axes, self._truncations(matrices, fraction), strict=True):
            if near is not None:
                weight.copy_(one.from_matrices(near.matrices, weight.shape))
                gates[weight] = _Tangent(one, near.left.to(weight.dtype), near.right.to(weight.dtype))
        return gates

    def _truncations(self, matrices: Sequence[Tensor], fraction: float) -> Iterator[Truncation | None]:
        """Yield for each layer what is left of its matrices; None if that is everything."""
        full = [min(one.shape[-2:]) for one in matrices]
        # Other rules look at the values, and other compressors may do anything.
        if type(self.compressor) is LowRank and type(self.compressor.rule) is EqualFraction:
            ranks = self._ranks([torch.ones(len(one), n) for one, n in zip(matrices, full, strict=True)], fraction)
            for one, rank, most in zip(matrices, ranks, full, strict=True):
                yield nearly_truncated(one, rank) if rank < most else None
        else:
            triplets = [decompose(one) for one in matrices]
            ranks = self._ranks([values.cpu() for _, values, _ in triplets], fraction)
            for one, found, rank, most in zip(matrices, triplets, ranks, full, strict=True):
                yield Truncation.of(one, *found, rank) if rank < most else None

    def _ranks(self, spectra: Sequence[Tensor], fraction: float) -> list[int]:
        return self.compressor.shares(dict(zip(self.names, spectra, strict=True)), fraction)


@dataclass(frozen=True, eq=False)
class _Tangent:
    """Projects a tensor onto the tangent space of the matrices of a rank: G - (I - U U^T) G (I - V V^T).

    For a rank this is what a mask is for entries: the changes that keep the removed atoms at zero, to first order.
    """

    axes: Axes
    left: Tensor
    right: Tensor

    def __call__(self, tensor: Tensor) -> Tensor:
        matrices = self.axes.to_matrices(tensor)
        with torch.autocast(matrices.device.type, enabled=False):  # products of 16 bits are no projection
            outside = matrices - self.left @ (self.left.mT @ matrices)
            outside = outside - outside @ self.right.mT @ self.right
        return self.axes.from_matrices(matrices - outside, tensor.shape)


@dataclass(frozen=True, eq=False)
class _Selected(Operator):
    compressor: Compressor
    model: nn.Module
    example: Example

    @torch.no_grad()
    def compress(self, fraction: float) -> Mapping[Tensor, Gate]:
        cut = self.compressor.select(self.model, fraction, example=self.example)
        truncated = dict(self.compressor.truncate(self.model, cut).named_parameters())
        gates: dict[Tensor, Gate] = {}
        for name, parameter in self.model.named_parameters():
            gates[parameter] = _Mask((truncated[name] == 0) & (parameter != 0))
            parameter.copy_(truncated[name])
        return gates
