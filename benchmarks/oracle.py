"""How long a linear minimisation oracle takes, and how much of the optimum it reaches, by size and k."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks import tables
from benchmarks.literal import block_power, full_svd
from benchmarks.section import Bench, Section
from benchmarks.tables import Column, Row
from benchmarks.timing import Timing, compare
from benchmarks.workloads import Drift
from pliant import Ball, TopK, k_support_ball, spectral_k_support_ball

# Singular values of the gradients: as flat as noise, and falling as those of real gradients do.
SPECTRA = {"flat": 0.0, "falling": 1.0}
# rows x columns x min(rows, columns) beyond which factorisations take many seconds; 512 x 4608 is within.
_LARGE = 1.3e9
_DRIFT_OF_LARGE = 5
_K_OF_LARGE = (0.1,)
_K_OF_SVD = 0.1  # a full SVD takes as long for any other k

Size = tuple[int, int]
Answer = Callable[["Question"], Tensor]


@dataclass(frozen=True)
class Oracle(Section):
    """Time of one oracle call, and <v, g> over the optimum, on gradients that drift."""

    name: str = "oracle"
    title: str = "The oracle"

    def run(self, bench: Bench) -> list[Row]:
        return [row for size in bench.level.sizes for kind in (ENTRIES, SINGULAR) for row in _rows(kind, size, bench)]

    def show(self, rows: Sequence[Row]) -> str:
        columns = (
            Column("ball", "ball"),
            Column("matrix", "size"),
            Column("k", "k", tables.percent),
            Column("oracle", "oracle"),
            Column("time", "seconds", tables.seconds),
            Column("IQR", "iqr", tables.seconds),
            Column("over the exact one", "over_exact", tables.times),
            Column("quality, flat spectrum", "quality_flat", tables.digits),
            Column("falling spectrum", "quality_falling", tables.digits),
        )
        return tables.table(columns, rows)


@dataclass(frozen=True)
class Question:
    """What an oracle is asked, again and again, while the gradient drifts.

    Args:
        ball: the region, of radius 1.
        k: of the ball, a count.
        gradient: the last one.
        state: what the warm oracle kept from the ones before.
        optimum: of <-v, gradient> over the ball.
    """

    ball: Ball
    k: int
    gradient: Tensor
    state: dict[str, Any]
    optimum: float

    def quality(self, vertex: Tensor) -> float:
        """Return <v, g> over the optimum."""
        return float(-(vertex.double() * self.gradient.double()).sum()) / self.optimum


@dataclass(frozen=True)
class Kind:
    """A family of balls.

    Args:
        name: of the family.
        ball: from k and the radius.
        energies: squared magnitudes of a matrix under the ball's view, descending, in float64.
        answers: oracles by name; "exact" is what the others are compared with.
        svd: whether a full SVD is one of the alternatives.
    """

    name: str
    ball: Callable[[float, float], Ball]
    energies: Callable[[Tensor], Tensor]
    answers: dict[str, Answer]
    svd: bool


def _exact(question: Question) -> Tensor:
    return question.ball.lmo(question.gradient)


def _warm(question: Question) -> Tensor:
    return question.ball.lmo(question.gradient, question.state)


def _block_power(question: Question) -> Tensor:
    return _vertex(block_power(question.gradient, question.k))


def _full_svd(question: Question) -> Tensor:
    return _vertex(full_svd(question.gradient, question.k))


def _vertex(best: Tensor) -> Tensor:
    # In float64: on a CPU the norm of a million float32 numbers is wrong in the fourth digit.
    return -best / torch.linalg.vector_norm(best, dtype=torch.float64).to(best.dtype)


def _squares(matrix: Tensor) -> Tensor:
    return matrix.double().square().flatten().sort(descending=True).values


def _eigenvalues(matrix: Tensor) -> Tensor:
    short = (matrix if matrix.shape[0] <= matrix.shape[1] else matrix.mT).double()
    return torch.linalg.eigvalsh(short @ short.mT).flip(0)


_BLOCK_POWER = "block power, ten iterations"
_INEXACT = ("warm", _BLOCK_POWER)  # the others reach the optimum by definition
ENTRIES = Kind("k-support", k_support_ball, _squares, {"exact": _exact, "warm": _warm}, svd=False)
SINGULAR = Kind(
    "spectral-k-support",
    spectral_k_support_ball,
    _eigenvalues,
    {"exact": _exact, "warm": _warm, _BLOCK_POWER: _block_power},
    svd=True,
)


def _rows(kind: Kind, size: Size, bench: Bench) -> list[Row]:
    large = size[0] * size[1] * min(size) > _LARGE
    fractions = _K_OF_LARGE if large else bench.level.fractions
    steps = min(bench.level.drift, _DRIFT_OF_LARGE) if large else bench.level.drift
    gradients = {name: _gradients(size, decay, steps, bench) for name, decay in SPECTRA.items()}
    energies = {name: kind.energies(past[-1]) for name, past in gradients.items()}
    rows = []
    for fraction in fractions:
        questions = {name: _ask(kind, fraction, past, energies[name]) for name, past in gradients.items()}
        with_svd = kind.svd and not large and fraction == _K_OF_SVD
        answers = kind.answers | ({"full SVD": _full_svd} if with_svd else {})
        rows += [{"ball": kind.name, "k": fraction} | row for row in _answered(questions, answers, bench)]
    return rows


def _gradients(size: Size, decay: float, steps: int, bench: Bench) -> list[Tensor]:
    drift = Drift([size], bench.device, decay=decay)
    past = []
    for _ in range(steps):
        past.append(drift.gradients[0].clone())
        drift.move()
    return past


def _ask(kind: Kind, fraction: float, past: Sequence[Tensor], energies: Tensor) -> Question:
    ball = kind.ball(fraction, 1.0)
    gauge = ball.gauge.at(len(energies))
    k = int(gauge.k) if isinstance(gauge, TopK) else len(energies)
    state: dict[str, Any] = {}
    for gradient in past[:-1]:  # the last is new to it when it is judged
        ball.lmo(gradient, state)
    return Question(ball, k, past[-1], state, float(energies[:k].clamp_min(0).sum().sqrt()))


def _answered(questions: dict[str, Question], answers: dict[str, Answer], bench: Bench) -> list[Row]:
    judged = (name for name in answers if name in _INEXACT)
    qualities = {
        name: {f"quality_{spectrum}": q.quality(answers[name](q)) for spectrum, q in questions.items()}
        for name in judged
    }
    # On the CPU no oracle takes longer for one spectrum than for another.
    calls = {name: partial(answer, questions["flat"]) for name, answer in answers.items()}
    found = compare(calls, device=bench.device, effort=bench.level.oracle)
    return [_row(questions["flat"], name, found) | qualities.get(name, {}) for name in answers]


def _row(question: Question, name: str, found: dict[str, Timing]) -> Row:
    timing = found[name]
    return {
        "size": "x".join(map(str, question.gradient.shape)),
        "oracle": name,
        "seconds": timing.median,
        "iqr": timing.iqr,
        "calls": timing.calls,
        "over_exact": timing.over(found["exact"]),
    }
