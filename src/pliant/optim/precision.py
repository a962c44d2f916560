"""How weights of 16 bits take steps smaller than their rounding."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pliant.spec import register

HALF = (torch.float16, torch.bfloat16)
FIRST = "first"  # in the state of a part of a weight: the number of its first entry in the whole, not saved
_DROPPED = 16  # bits of a float32 that bfloat16 does not have


class Precision(ABC):
    """Gives the float32 weights that a step is taken on, and puts them back into 16 bits."""

    @abstractmethod
    def check(self, dtype: torch.dtype, name: str) -> None:
        """Raise ValueError if weights of this dtype cannot be kept in this way."""

    @abstractmethod
    def prepare(self, p: Tensor, state: dict[str, Any]) -> None:
        """Create the state that is missing."""

    @abstractmethod
    def load(self, p: Tensor, state: dict[str, Any]) -> Tensor:
        """Return the weights in float32, to be changed in place; state that is missing is created."""

    @abstractmethod
    def store(self, p: Tensor, x: Tensor, state: dict[str, Any]) -> None:
        """Set the parameter to the changed weights."""


@register
@dataclass(frozen=True)
class Master(Precision):
    """A copy of the weights in float32 takes the steps; the parameter is its rounding. Four more bytes a weight.

    Where the parameter is no longer its rounding (weights were loaded, clamped or scaled since) the copy follows it.
    """

    def check(self, dtype: torch.dtype, name: str) -> None:
        pass

    def prepare(self, p: Tensor, state: dict[str, Any]) -> None:
        if "master" not in state:
            state["master"] = p.detach().float()

    def load(self, p: Tensor, state: dict[str, Any]) -> Tensor:
        self.prepare(p, state)
        return follow(state["master"], p.detach())

    def store(self, p: Tensor, x: Tensor, state: dict[str, Any]) -> None:  # noqa: ARG002  (x is the copy itself)
        p.copy_(x)


@register
@dataclass(frozen=True)
class StochasticRounding(Precision):
    """Weights are rounded up or down at random, right on average, so that small steps add up. bfloat16 only.

    The random bits are a hash of the entry's number, of the seed and of the number of roundings so far: they need no
    generator, are the same on every device, and a resumed run draws what the uninterrupted one draws.

    Args:
        seed: of the hash.
    """

    seed: int = 0

    def __post_init__(self) -> None:
        if not isinstance(self.seed, int) or not 0 <= self.seed < 2**31:
            raise ValueError(f"seed must be an int in [0, 2^31), found {self.seed!r}")

    def check(self, dtype: torch.dtype, name: str) -> None:
        if dtype is torch.float16:
            raise ValueError(
                f"{name} is torch.float16; StochasticRounding is for bfloat16 only, use precision=Master()"
            )

    def prepare(self, p: Tensor, state: dict[str, Any]) -> None:
        if "roundings" not in state:
            state["roundings"] = torch.zeros((), dtype=torch.int32, device=p.device)

    def load(self, p: Tensor, state: dict[str, Any]) -> Tensor:
        self.prepare(p, state)
        return p.detach().float()

    def store(self, p: Tensor, x: Tensor, state: dict[str, Any]) -> None:
        noise = _hash(x.numel(), state["roundings"], self.seed + state.get(FIRST, 0)).reshape(x.shape)
        bits = x.contiguous().view(torch.int32) + (noise & (2**_DROPPED - 1))
        # The cast rounds to nearest, so the bits below bfloat16's are cleared first. Infinity and NaN stay.
        rounded = (bits & -(2**_DROPPED)).view(torch.float32)
        p.copy_(torch.where(x.isfinite(), rounded, x))
        state["roundings"] += 1


def follow(wide: Tensor, p: Tensor) -> Tensor:
    """Set a wider copy of weights to them where it no longer rounds to them, in place, and return it.

    Else the next step would undo whatever changed the weights themselves.
    """
    return torch.where(wide.to(p.dtype) == p, wide, p.to(wide.dtype), out=wide)


def _hash(n: int, turn: Tensor, seed: int) -> Tensor:
    """Return n pseudo-random 32-bit integers: a multiplicative hash with good avalanche, of wrapping products."""
    h = torch.arange(n, dtype=torch.int32, device=turn.device)
    seed = (seed + 2**31) % 2**32 - 2**31  # wraps as the products do
    h = (h + seed) * -1640531535 + turn * -2048144789
    for shift, factor in ((16, 2146121005), (15, -2073254261)):
        h = (h ^ ((h >> shift) & (2 ** (32 - shift) - 1))) * factor
    return h ^ ((h >> _DROPPED) & (2**_DROPPED - 1))
