"""One region on points of one shape and dtype, and the arithmetic that laws need: points as tuples of tensors."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pliant.regions.region import Region, tensors

Point = tuple[Tensor, ...]
Shape = Sequence[int]

HALF = (torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class Case:
    """A region, the shapes of one point, and how to draw points.

    Args:
        region: the region under test.
        shapes: one shape per tensor of a point, without batch dimensions.
        dtype: of the points; float16 and bfloat16 are expected to be computed with in float32.
        seed: every law draws the same points again for the same seed.
        batch: sizes of the batch dimensions in front of every tensor; norms have this shape.
        device: where the points live.
        trials: points that a law draws of each kind.
    """

    region: Region
    shapes: tuple[tuple[int, ...], ...]
    dtype: torch.dtype = torch.float32
    seed: int = 0
    batch: tuple[int, ...] = ()
    device: str = "cpu"
    trials: int = 3

    @property
    def numel(self) -> int:
        """Number of entries of one point."""
        return sum(math.prod(shape) for shape in self.shapes)

    @property
    def slack(self) -> float:
        """Relative rounding error that a law must allow.

        A norm or an inner product of n entries collects at most n roundings of the computing precision (float32 for
        half types), and so does a factorisation. Storing a result rounds each entry by half an eps of the dtype: a
        perturbation whose Euclidean norm is eps/2 of the point's and whose norm, for a norm of l1 kind in another
        basis (nuclear norm), is at most sqrt(n) times that. A law compares two such quantities, so twice the sum.
        """
        computing = torch.finfo(torch.float32 if self.dtype in HALF else self.dtype).eps
        storing = torch.finfo(self.dtype).eps
        return 2.0 * (self.numel * computing + math.sqrt(self.numel) * storing + 2.0 * storing)

    def draws(self, law: str) -> torch.Generator:
        """Return the generator of a law: laws draw independently of each other and of the global state."""
        return torch.Generator().manual_seed(self.seed * 1_000_003 + sum(map(ord, law)))

    def normal(self, generator: torch.Generator) -> Point:
        """Draw a point with standard normal entries: half of them negative."""
        draws = [torch.randn((*self.batch, *shape), generator=generator, dtype=torch.float64) for shape in self.shapes]
        return tuple(draw.to(self.device, self.dtype) for draw in draws)

    def constant(self, number: float) -> Point:
        """Return the point whose entries all are `number`: every tie there is."""
        return tuple(
            torch.full((*self.batch, *shape), number, dtype=self.dtype, device=self.device) for shape in self.shapes
        )

    def directions(self, generator: torch.Generator) -> Iterator[Point]:
        """Yield gradients: random ones, sparse ones, all ties, a single entry, and one tensor far larger."""
        for _ in range(self.trials):
            yield self.normal(generator)
        normal = self.normal(generator)
        keep = [torch.rand(x.shape, generator=generator).to(x.device) < 0.3 for x in normal]
        yield tuple(x * mask for x, mask in zip(normal, keep, strict=True))
        yield self.constant(1.0)
        yield self.constant(-1.0)
        yield tuple(_single(x, len(self.batch)) for x in normal)
        yield tuple(x * 1e-3**i for i, x in enumerate(normal))

    def feasible(self, generator: torch.Generator) -> Iterator[Point]:
        """Yield feasible points: zero, inside, on the boundary, projected, vertices, and a middle of two vertices."""
        yield self.constant(0.0)
        yield self.project(scaled(self.at_radius(self.normal(generator), 1.0), 3.0))
        for _ in range(self.trials):
            yield self.at_radius(self.normal(generator), 0.5)
            yield self.at_radius(self.normal(generator), 1.0)
            vertex, other = self.lmo(self.normal(generator)), self.lmo(self.normal(generator))
            yield vertex
            yield tuple((0.5 * (a.double() + b.double())).to(self.dtype) for a, b in zip(vertex, other, strict=True))

    def at_radius(self, x: Point, share: float) -> Point:
        """Return x scaled to `share` of the radius; 0 stays 0."""
        value = self.value(x)
        factor = torch.where(value > 0, share * self.region.radius / value, 1.0)
        return tuple((part.double() * like(factor, part)).to(part.dtype) for part in x)

    def pack(self, x: Point) -> Any:  # noqa: ANN401  (Tensor or sequence, as the region's arity says)
        """Return a point as the region takes it."""
        return x[0] if self.region.arity == 1 else x

    def value(self, x: Point) -> Tensor:
        """Return the norm of x in float64."""
        return _norm(self.region.value(self.pack(x)))

    def dual(self, g: Point) -> Tensor:
        """Return the dual norm of g in float64."""
        return _norm(self.region.dual(self.pack(g)))

    def lmo(self, g: Point) -> Point:
        """Return the vertex for g."""
        return tensors(self.region.lmo(self.pack(g)))

    def project(self, x: Point) -> Point:
        """Return the projection of x."""
        return tensors(self.region.project(self.pack(x)))

    def scale_into(self, x: Point) -> Point:
        """Return x scaled into the region."""
        return tensors(self.region.scale_into(self.pack(x)))

    def contains(self, x: Point, tol: float) -> bool:
        """Tell whether x is feasible up to `tol`."""
        return self.region.contains(self.pack(x), tol=tol)

    def gap(self, x: Point, g: Point) -> Tensor:
        """Return the Frank-Wolfe gap in float64."""
        return _norm(self.region.gap(self.pack(x), self.pack(g)))

    def diameter(self) -> float:
        """Return the diameter for points of these shapes."""
        shapes: Any = self.shapes[0] if self.region.arity == 1 else self.shapes
        return self.region.diameter(shapes)

    def dot(self, x: Point, y: Point, weights: Sequence[float] | None = None) -> Tensor:
        """Return <x, y> in float64, with one weight per tensor if given, shape of the batch."""
        factors = weights or [1.0] * len(x)
        products = [w * (a.double() * b.double()) for w, a, b in zip(factors, x, y, strict=True)]
        return torch.stack([p.reshape(*self.batch, -1).sum(-1) for p in products]).sum(0)

    def length(self, x: Point, weights: Sequence[float] | None = None) -> Tensor:
        """Return the Euclidean norm in float64, shape of the batch."""
        return self.dot(x, x, weights).sqrt()

    def zeros(self) -> Tensor:
        """Return a zero of the shape of a norm, float64."""
        return torch.zeros(self.batch, dtype=torch.float64, device=self.device)


def of(region: Region, shapes: Shape | Sequence[Shape], **options: Any) -> Case:  # noqa: ANN401  (fields of Case)
    """Return the case of a region on one shape, or one shape per tensor of a point."""
    many = [shapes] if not shapes or isinstance(shapes[0], int) else shapes
    return Case(region, tuple(tuple(shape) for shape in many), **options)  # type: ignore[arg-type]


def scaled(x: Point, factor: float) -> Point:
    """Return factor * x."""
    return tuple(part * factor for part in x)


def minus(x: Point, y: Point) -> Point:
    """Return x - y in float64."""
    return tuple(a.double() - b.double() for a, b in zip(x, y, strict=True))


def plus(x: Point, y: Point) -> Point:
    """Return x + y in float64."""
    return tuple(a.double() + b.double() for a, b in zip(x, y, strict=True))


def like(factor: Tensor, x: Tensor) -> Tensor:
    """Return a per-point factor shaped to multiply x."""
    return factor.reshape((*factor.shape, *[1] * (x.ndim - factor.ndim)))


def _norm(value: Tensor) -> Tensor:
    return value.detach().double()


def _single(x: Tensor, batch: int) -> Tensor:
    flat = x.reshape(*x.shape[:batch], -1)
    index = torch.arange(flat.shape[-1], device=x.device)
    return torch.where(index == flat.shape[-1] // 2, flat, 0.0).reshape(x.shape)
