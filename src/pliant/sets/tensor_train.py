"""TensorTrainSet: weights that are tensor trains of bounded ranks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from pliant.sets.train_ranks import TrainRanks
from pliant.sets.weight_set import Point, SetError, WeightSet, check_weight
from pliant.spec import register
from pliant.tensor_train import Cores, Modes, Paired, Reading, contract, decompose
from pliant.tensor_train.alternate import onto_tangent, sweep


@register
@dataclass(frozen=True)
class TensorTrainSet(WeightSet):
    """{G : the tensor that G is read as is a train of bounded ranks}.

    The projection is a sequence of truncated singular value decompositions, followed by `sweeps` passes of alternating
    least squares. Its distance is at most sqrt(m - 1) times the least possible one, m the number of cores; with two
    cores it is exact. Where an earlier point `near` is nearer nevertheless, the result is that point after a pass of
    alternating least squares; a `near` that is no point of the set is left aside. The factors of a point are its cores,
    of shapes (r_{k-1}, n_k, r_k).

    Args:
        ranks: how the ranks are bounded.
        reading: which modes a weight has.
        sweeps: passes of alternating least squares after the decomposition.
        warm: where an earlier point of the same ranks is given, do no decomposition, but at least one pass from that
            point: matrix products alone, and a slower approach to a weight that moved far.

    Raises:
        SetError: if `sweeps` is negative.

    Reference: Oseledets (2011); Holtz, Rohwedder, Schneider (2012).
    """

    ranks: TrainRanks
    reading: Reading = field(default_factory=Paired)
    sweeps: int = 0
    warm: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.ranks, TrainRanks):
            raise SetError(f"ranks must be TrainRanks such as EqualRanks(8), found {self.ranks!r}")
        if type(self.sweeps) is not int or self.sweeps < 0:
            raise SetError(f"sweeps must be a count of at least 0, found {self.sweeps!r}")

    def project(self, weight: Tensor, near: Point | None = None) -> Point:
        plain, modes = check_weight(weight), self.reading.modes(weight.shape)
        tensor = modes.fold(plain)
        near = near if near is not None and self._holds(near, modes, plain.numel()) else None
        ranks = self.ranks.choose(tensor, plain.numel(), None if near is None else _ranks(near.factors))
        if near is not None and self.warm and ranks == _ranks(near.factors):
            return self._nearer(weight, near, modes, max(1, self.sweeps))
        cores = decompose(tensor, ranks)
        for _ in range(self.sweeps):
            cores = sweep(tensor, cores)
        point = _point(weight, cores, modes)
        if near is None or _distance(point, weight) <= _distance(near, weight):
            return point
        return self._nearer(weight, near, modes, max(1, self.sweeps))

    def _holds(self, point: Point, modes: Modes, dense: int) -> bool:
        """Tell whether a point is a train of these modes whose ranks the set allows; one of another set may be none."""
        cores = point.factors
        if [core.ndim for core in cores] != [3] * len(modes.sizes):
            return False
        ranks = _ranks(cores)
        shapes = [tuple(core.shape) for core in cores]
        fits = shapes == list(zip((1, *ranks), modes.sizes, (*ranks, 1), strict=True))
        return fits and self.ranks.allows(ranks, modes.sizes, dense)

    def size(self, shape: Sequence[int]) -> int:
        return self.ranks.most(self.reading.modes(shape).sizes, math.prod(shape))

    def tangent(self, point: Point, residual: Tensor) -> Tensor:
        modes = self.reading.modes(residual.shape)
        inside = onto_tangent(point.factors, modes.fold(residual.to(point.factors[0].dtype)))
        return modes.unfold(inside, residual.shape).to(residual.dtype)

    def _nearer(self, weight: Tensor, near: Point, modes: Modes, sweeps: int) -> Point:
        """Return a point that is no farther from a weight than `near` is."""
        cores, plain = near.factors, check_weight(weight)
        for _ in range(sweeps):
            found = contract(cores)
            # Where modes are longer than the weight, the train is left what it is: a majorant of the distance.
            cores = sweep(found + modes.fold(plain - modes.unfold(found, weight.shape)), cores)
        point = _point(weight, cores, modes)
        return point if _distance(point, weight) <= _distance(near, weight) else near


def _point(weight: Tensor, cores: Cores, modes: Modes) -> Point:
    return Point(modes.unfold(contract(cores), weight.shape).to(weight.dtype), cores)


def _ranks(cores: Sequence[Tensor]) -> tuple[int, ...]:
    return tuple(core.shape[2] for core in cores[:-1])


def _distance(point: Point, weight: Tensor) -> Tensor:
    distance: Tensor = torch.linalg.vector_norm(point.dense - weight.detach(), dtype=torch.float64)
    return distance
