"""Large weights of any shapes of which a few whole channels are chosen: they share all work on vectors of norms."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from pliant.optim.batch import advance, ready, step_sizes
from pliant.optim.gradient import gradient_of
from pliant.optim.point import Point
from pliant.optim.precision import HALF
from pliant.optim.stacking import numbers, stack
from pliant.optim.steps import Lengths, Situation, StepRule
from pliant.regions.ball import Ball
from pliant.regions.entrywise import LARGE
from pliant.regions.gauges import Flat, Proportional
from pliant.regions.vertex import across, full_precision
from pliant.regions.views import Filters, channel_factors, in_range


@dataclass(frozen=True, eq=False)
class Layout:
    """Where the channels of several weights are in one vector of them all, and in a matrix with one row a weight.

    Args:
        counts: how many channels of each weight a vertex has.
        place: of the matrix' entries in the vector, row after row; behind its end where the row is shorter.
        behind: a zero, shape (1,), to be found there.
        outside: which of the matrix' entries are no channels.
        beyond: which of the ranks in a row are above its count, shape (weights, largest count).
        ranks: of the vertices' channels in the matrix of ranks, row after row.
        starts: of the weights of these channels in the vector.
    """

    counts: tuple[int, ...]
    place: Tensor
    behind: Tensor
    outside: Tensor
    beyond: Tensor
    ranks: Tensor
    starts: Tensor

    @staticmethod
    def of(sizes: Sequence[int], counts: Sequence[int], like: Tensor) -> Layout:
        """Return the layout of weights with `sizes` channels of which `counts` are chosen; the host reads nothing."""
        device, starts = like.device, [0, *accumulate(sizes)]
        numbered = [torch.arange(start, end, device=device) for start, end in pairwise(starts)]
        place = pad_sequence(numbered, batch_first=True, padding_value=starts[-1])
        rank = torch.arange(max(counts), device=device)
        return Layout(
            counts=tuple(counts),
            place=place.flatten(),
            behind=like.new_zeros(1),
            outside=place == starts[-1],
            beyond=torch.stack([rank >= count for count in counts]),
            ranks=torch.cat([rank[:count] + row * len(rank) for row, count in enumerate(counts)]),
            starts=torch.cat([part[:1].expand(count) for part, count in zip(numbered, counts, strict=True)]),
        )

    def rows(self, vector: Tensor) -> Tensor:
        """Return the matrix of a vector that has one more entry, 0, at its end."""
        return vector.index_select(0, self.place).reshape(len(self.counts), -1)

    def chosen(self, ranked: Tensor) -> Tensor:
        """Return the entries of a matrix of ranks, or of one with one column for all, that belong to the vertices."""
        return ranked.expand(self.beyond.shape).reshape(-1).index_select(0, self.ranks)


@dataclass(frozen=True, eq=False)
class Chosen(Lengths):
    """The vertices of several weights, zero but for a few channels each: values * factors.

    Args:
        layout: of the weights.
        weights: before the step, then after it.
        index: numbers of the chosen channels, all weights' one after the other.
        values: of these channels, (count, *rest) for each weight.
        factors: of them, shape (weights, largest count or 1).
        asked: norm_2 of what the oracle was asked about, shape (weights,).
    """

    layout: Layout
    weights: Sequence[Tensor]
    index: Tensor
    values: Sequence[Tensor]
    factors: Tensor
    asked: Tensor

    @staticmethod
    def of(
        layout: Layout,
        weights: Sequence[Tensor],
        momentum: Sequence[Tensor],
        pattern: Proportional | Flat,
        radii: Tensor,
    ) -> Chosen:
        """Return the vertices for the momentum, of regions of these radii whose channels are weighed in this way."""
        found = layout.rows(torch.cat([*map(_norms, momentum), layout.behind]))
        # Below zero, so that of a zero gradient the channels are chosen and not what is no channel.
        top, ranked = in_range(found).masked_fill_(layout.outside, -1.0).topk(layout.beyond.shape[1])
        factors = channel_factors(top.masked_fill_(layout.beyond, 0.0), pattern) * -radii.unsqueeze(1)
        index = layout.chosen(ranked)
        parts = zip(momentum, index.split(layout.counts), strict=True)
        values = [m.index_select(0, part) for m, part in parts]
        return Chosen(layout, weights, index, values, factors, torch.linalg.vector_norm(found, dim=-1))

    def distance(self) -> Tensor:
        norms = torch.cat([*map(_norms, self.weights), self.layout.behind])
        parts = zip(self.weights, self._index(), self.values, self._columns(self.factors), strict=True)
        away = [_norms(x.index_select(0, i).addcmul_(v, f, value=-1)) for x, i, v, f in parts]
        norms.index_copy_(0, self.index + self.layout.starts, torch.cat(away))
        return torch.linalg.vector_norm(self.layout.rows(norms), dim=-1)

    def size(self) -> Tensor:
        return self.asked

    def move(self, alpha: Tensor) -> None:
        """Take each of the weights toward its vertex. Uses the values up."""
        torch._foreach_mul_(list(self.weights), list((1 - alpha).unbind()))
        torch._foreach_mul_(list(self.values), self._columns(self.factors * alpha.unsqueeze(1)))
        for x, i, v in zip(self.weights, self._index(), self.values, strict=True):
            x.index_add_(0, i, v)

    def _index(self) -> Sequence[Tensor]:
        return self.index.split(self.layout.counts)

    def _columns(self, factors: Tensor) -> list[Tensor]:
        parts = self.layout.chosen(factors).split(self.layout.counts)
        return [across(part, v.ndim) for part, v in zip(parts, self.values, strict=True)]


@dataclass(frozen=True, eq=False)
class ChannelBatch:
    """Points of any shapes with few chosen channels, alike in step rule and momentum, each with a gradient.

    Args:
        points: at least one.
        layout: of their weights.
        pattern: how channels are weighed; the counts are the layout's.
        radii: of the regions, shape (points,).
        diameters: likewise.
    """

    points: Sequence[Point]
    layout: Layout
    pattern: Proportional | Flat
    radii: Tensor
    diameters: Tensor

    @staticmethod
    def of(points: Sequence[Point]) -> ChannelBatch:
        """Return points of one kind as a batch."""
        like = points[0].like
        patterns = [pattern for pattern in map(_pattern, points) if pattern is not None]
        sizes = [point.params[0].shape[0] for point in points]
        layout = Layout.of(sizes, [pattern.count for pattern in patterns], like)
        radii = numbers([point.region.radius for point in points], like)
        return ChannelBatch(points, layout, patterns[0], radii, numbers([point.diameter() for point in points], like))

    def gradients(self) -> list[Tensor | None]:
        """Return the gradients, one for each point."""
        return [gradient_of(point.params[0]) for point in self.points]

    def step(self, grads: Sequence[Tensor | None], usable: Tensor | None) -> list[Tensor]:
        """Take one step and return the step size of each point.

        Args:
            grads: what `gradients` returned.
            usable: whether the step counts, a boolean on any device; None: it does.
        """
        usable = ready(self.points, usable)
        weights = [point.params[0].detach() for point in self.points]
        with full_precision(weights[0].device):
            chosen = Chosen.of(self.layout, weights, self._advance(grads, usable), self.pattern, self.radii)
            steps = stack([point.states[0]["steps"] for point in self.points])
            alpha = step_sizes(self.points, Situation([], [], [], self.diameters, steps, lengths=chosen), usable)
            chosen.move(alpha)
        return list(alpha.unbind())

    def _advance(self, grads: Sequence[Tensor | None], usable: Tensor | None) -> list[Tensor]:
        pairs = [(point, grad) for point, grad in zip(self.points, grads, strict=True) if grad is not None]
        return [advance(point.states[0]["momentum_buffer"], grad, point.group, usable) for point, grad in pairs]


def apart(points: Iterable[Point]) -> tuple[list[ChannelBatch], list[Point]]:
    """Return batches of the points that this module is for, where there are several of a kind, and the other points."""
    kinds: dict[Any, list[Point]] = {}
    rest: list[Point] = []
    for point in points:
        pattern = _pattern(point)
        (rest if pattern is None else kinds.setdefault(_kind(point, pattern), [])).append(point)
    several = [ChannelBatch.of(tuple(members)) for members in kinds.values() if len(members) > 1]
    return several, rest + [point for members in kinds.values() if len(members) == 1 for point in members]


def _pattern(point: Point) -> Proportional | Flat | None:
    """Return how the channels of a point are weighed; None for a point that takes the step in another way."""
    p, region = point.params[0], point.region
    grad = gradient_of(p)
    large = p.ndim > 1 and p.numel() > LARGE and p.dtype not in HALF and grad is not None and grad.dtype is p.dtype
    if not (large and isinstance(region, Ball) and isinstance(region.view, Filters) and region.view.axes.out == 0):
        return None
    rule: StepRule = point.group["step_rule"]
    if point.group["exact"] or point.group["foreach"] is not None or not rule.of_lengths:
        return None
    channels = p.shape[0]
    pattern = region.gauge.at(channels).pattern(channels)
    return pattern if pattern is not None and 2 * pattern.count <= channels else None


def _kind(point: Point, pattern: Proportional | Flat) -> Any:  # noqa: ANN401  (anything hashable)
    group, p = point.group, point.params[0]
    return (type(pattern), p.dtype, p.device, group["step_rule"], group["momentum"], group["dampening"])


def _norms(x: Tensor) -> Tensor:
    """Return the norms of the channels; no view of a matrix, which channels in another memory order do not have."""
    return torch.linalg.vector_norm(x, dim=tuple(range(1, x.ndim)))
