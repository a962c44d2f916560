"""Contractions: in which order a layer multiplies its input with the cores, and what that costs."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from pliant.tensor_train.form import Form
from pliant.tensor_train.modes import MatrixModes
from pliant.tensor_train.train import Cores, contract

Apply = Callable[[Tensor, Tensor], Tensor]  # x of shape (batch, in, *positions) and a dense weight -> (batch, out, ...)

_MANY = 2**20  # positions


class Contraction(ABC):
    """A way through the cores."""

    @abstractmethod
    def macs(self, form: Form, reads: int, writes: int) -> int:
        """Return the multiply-accumulates of one call.

        Args:
            form: of the train.
            reads: positions (samples, pixels, tokens) that the layer reads.
            writes: positions that it writes.
        """

    @abstractmethod
    def run(self, form: Form, cores: Cores, x: Tensor, apply: Apply) -> Tensor:
        """Multiply an input with the cores.

        Args:
            form: of the train.
            cores: shapes (r_{k-1}, n_k, r_k).
            x: shape (batch, inputs, *positions), zeros included.
            apply: the layer with a dense weight.

        Returns:
            shape (batch, outputs, *positions), zeros included.
        """


@dataclass(frozen=True)
class Whole(Contraction):
    """Make the weight of the cores in every call, then use it: where many positions share it and ranks are large."""

    def macs(self, form: Form, reads: int, writes: int) -> int:  # noqa: ARG002  (a dense layer computes per output)
        cost, made = math.prod(form.padded) * writes, form.cores[0][1]
        for before, size, after in form.cores[1:]:
            cost += made * before * size * after
            made *= size
        return cost

    def run(self, form: Form, cores: Cores, x: Tensor, apply: Apply) -> Tensor:
        return apply(x, form.modes.unfold(contract(cores), form.padded))


@dataclass(frozen=True)
class FromInputs(Contraction):
    """From the last core to the first: the state holds (inputs to come, bond, outputs made, positions)."""

    def macs(self, form: Form, reads: int, writes: int) -> int:
        steps = _steps(form)
        total, positions = 0, writes if form.pointwise else reads
        for place in reversed(range(len(steps))):
            step = steps[place]
            positions = writes if step.window else positions
            beside = math.prod(s.columns for s in steps[:place]) * math.prod(s.rows for s in steps[place + 1 :])
            total += step.entries * beside * positions
        return total

    def run(self, form: Form, cores: Cores, x: Tensor, apply: Apply) -> Tensor:
        state, space, left, made = _positions_last(x), tuple(x.shape[2:]), x.shape[1], 1
        for step, core in zip(reversed(_steps(form)), reversed(cores), strict=True):
            if step.window:
                weight = core.permute(0, 2, 1).unflatten(2, form.shape[2:])
                state = state.reshape(x.shape[0] * left, step.after, made * math.prod(space))
                state, space = _over_window(state.unflatten(-1, (made, *space)), weight, apply)
            else:
                left //= step.columns
                matrix = core.reshape(step.before * step.rows, step.columns * step.after)
                state = _mix(matrix, state.reshape(x.shape[0] * left, matrix.shape[1], made * math.prod(space)))
                made *= step.rows
        return state.reshape(x.shape[0], form.padded[0], *space)


@dataclass(frozen=True)
class FromOutputs(Contraction):
    """From the first core to the last: the state holds (outputs made, bond, inputs to come, positions)."""

    def macs(self, form: Form, reads: int, writes: int) -> int:
        steps = _steps(form)
        total, positions = 0, writes if form.pointwise else reads
        for place, step in enumerate(steps):
            positions = writes if step.window else positions
            beside = math.prod(s.rows for s in steps[:place]) * math.prod(s.columns for s in steps[place + 1 :])
            total += step.entries * beside * positions
        return total

    def run(self, form: Form, cores: Cores, x: Tensor, apply: Apply) -> Tensor:
        state, space, left, made = _positions_last(x), tuple(x.shape[2:]), x.shape[1], 1
        for step, core in zip(_steps(form), cores, strict=True):
            if step.window:
                weight = core.permute(2, 0, 1).unflatten(2, form.shape[2:])
                state = state.reshape(x.shape[0] * made, step.before, left * math.prod(space))
                state, space = _over_window(state.unflatten(-1, (left, *space)), weight, apply)
            else:
                left //= step.columns
                split = core.reshape(step.before, step.rows, step.columns, step.after)
                matrix = split.permute(1, 3, 0, 2).reshape(step.rows * step.after, step.before * step.columns)
                state = _mix(matrix, state.reshape(x.shape[0] * made, matrix.shape[1], left * math.prod(space)))
                made *= step.rows
        return state.reshape(x.shape[0], form.padded[0], *space)


def cheapest(form: Form, stride: Sequence[int] = ()) -> Contraction:
    """Return the contraction that multiplies least where many positions are read in one call.

    Args:
        form: of the train.
        stride: of the layer, if it is a convolution.
    """
    ways: tuple[Contraction, ...] = (Whole(),)
    if isinstance(form.modes, MatrixModes):
        ways = (FromInputs(), FromOutputs(), Whole())
    return min(ways, key=lambda way: way.macs(form, _MANY * math.prod(stride), _MANY))


@dataclass(frozen=True)
class _Step:
    """One core: (before, rows, columns, after), or over a window (before, its places, after)."""

    before: int
    rows: int
    columns: int
    after: int
    window: int = 0

    @property
    def entries(self) -> int:
        return self.before * (self.window or self.rows * self.columns) * self.after


def _steps(form: Form) -> Sequence[_Step]:
    modes = form.modes
    if not isinstance(modes, MatrixModes):
        raise TypeError(f"{modes} mix outputs and inputs: only Whole contracts them")
    pairs = list(zip(modes.rows, modes.columns, strict=True))
    window = [(1, 1)] if modes.windowed else []
    sizes = [*pairs[: modes.place], *window, *pairs[modes.place :]]
    return [
        _Step(a, rows, columns, b, n if modes.windowed and place == modes.place else 0)
        for place, ((a, n, b), (rows, columns)) in enumerate(zip(form.cores, sizes, strict=True))
    ]


def _positions_last(x: Tensor) -> Tensor:
    """Return x of shape (batch, in, *positions) as (batch, in, positions), whose number is told: there may be none."""
    return x.reshape(*x.shape[:2], math.prod(x.shape[2:]))


def _mix(matrix: Tensor, state: Tensor) -> Tensor:
    """Multiply the middle dimension of a state (batch, in, positions) with a matrix (out, in)."""
    if state.shape[2] == 1:
        return (state[..., 0] @ matrix.mT)[..., None]
    return matrix @ state


def _over_window(state: Tensor, weight: Tensor, apply: Apply) -> tuple[Tensor, tuple[int, ...]]:
    """Apply a small layer beside other channels.

    Args:
        state: shape (batch, in, beside, *positions).
        weight: shape (out, in, *window).
        apply: the layer.

    Returns:
        shape (batch, out, beside * positions), and the positions.
    """
    beside = state.shape[2]
    made = apply(state.transpose(1, 2).flatten(0, 1), weight)
    back = made.unflatten(0, (-1, beside)).transpose(1, 2)
    return back.flatten(2), tuple(back.shape[3:])
