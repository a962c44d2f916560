"""Region: where weights may be. One verb, `lmo`, for every set."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from torch import Tensor

from pliant.regions.vertex import Vertex

if TYPE_CHECKING:
    from pliant.regions.views import Shape

X = TypeVar("X", Tensor, Sequence[Tensor])


class Region(ABC):
    """A closed, convex, bounded, symmetric set of tensors around the origin: {x : value(x) <= radius}.

    A point is one tensor where `arity` is 1, otherwise a sequence of `arity` tensors.
    """

    radius: float

    @property
    @abstractmethod
    def arity(self) -> int:
        """Number of tensors that make one point."""

    @abstractmethod
    def value(self, x: X) -> Tensor:
        """Return the norm of x, which is feasible exactly if this is at most the radius."""

    @abstractmethod
    def dual(self, g: X) -> Tensor:
        """Return the dual norm of g: max <v, g> over all v with value(v) <= 1."""

    @abstractmethod
    def vertex(self, g: X, state: dict[str, Any] | None = None) -> tuple[Vertex, ...]:
        """Return a point v of the region that minimises <v, g>, one tensor of the point after the other.

        Args:
            g: the direction, usually a gradient or momentum, shaped like a point.
            state: None asks for the exact minimiser. A dict, empty at first and kept from call to call, allows a nearly
                optimal one that is faster, needs no host reads where that can be done, and is feasible nevertheless;
                what an oracle writes to it is plain data and tensors.
        """

    def lmo(self, g: X, state: dict[str, Any] | None = None) -> X:
        """Return the dense `vertex` in the dtype of g; without state <v, g> = -radius * dual(g)."""
        pairs = zip(self.vertex(g, state), tensors(g), strict=True)
        return pack(g, [part.dense().to(old.dtype) for part, old in pairs])

    @abstractmethod
    def project(self, x: X) -> X:
        """Return the nearest feasible point."""

    @abstractmethod
    def diameter(self, shape: Shape | Sequence[Shape]) -> float:
        """Return the Euclidean diameter of the region for points of this shape (a sequence of shapes if arity > 1)."""

    @abstractmethod
    def scale_into(self, x: X) -> X:
        """Return x if it is feasible, otherwise x / value(x) * radius."""

    @abstractmethod
    def contains(self, x: X, *, tol: float = 1e-6) -> bool:
        """Tell whether value(x) <= radius * (1 + tol)."""

    @abstractmethod
    def gap(self, x: X, g: X) -> Tensor:
        """Return the Frank-Wolfe gap <x - lmo(g), g>, at least 0 for feasible x and 0 at stationary points."""


def tensors(x: Tensor | Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Return a point as a tuple of tensors."""
    return (x,) if isinstance(x, Tensor) else tuple(x)


def pack(like: X, parts: Sequence[Tensor]) -> X:
    """Return tensors as a point of the same kind as `like`."""
    if isinstance(like, Tensor):
        return parts[0]
    return tuple(parts)
