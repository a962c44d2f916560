"""A section of the benchmarks, how much it does, and the file that its rows go to."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from benchmarks.machine import Machine, describe
from benchmarks.tables import Row
from benchmarks.timing import Effort


@dataclass(frozen=True)
class Level:
    """How much a run does.

    Args:
        name: quick, full, ...
        effort: of the timing of steps.
        oracle: of the timing of oracles, of which there are many.
        nets: names of `benchmarks.workloads.NETS`.
        steps: training steps that shares are taken over, after two that are not.
        batch: images of a training step, before a net's own limit.
        sizes: matrices that oracles are timed on, (rows, columns).
        fractions: k of those oracles.
        drift: gradients that a warm oracle has seen before it is timed and judged.
        training: steps of the run that the oracle's quality is recorded over.
    """

    name: str
    effort: Effort
    oracle: Effort
    nets: tuple[str, ...]
    steps: int
    batch: int
    sizes: tuple[tuple[int, int], ...]
    fractions: tuple[float, ...]
    drift: int
    training: int


@dataclass(frozen=True)
class Bench:
    """What a section needs to run: how much, where, and the folder for files beside its rows."""

    level: Level
    device: torch.device
    folder: Path


class Section(ABC):
    """One question, its rows, and how they are shown."""

    name: str
    title: str

    @abstractmethod
    def run(self, bench: Bench) -> list[Row]:
        """Measure; return the rows, plain data."""

    @abstractmethod
    def show(self, rows: Sequence[Row]) -> str:
        """Return the rows as Markdown."""


@dataclass(frozen=True)
class Result:
    """The rows of a section and what they were measured on."""

    section: str
    level: str
    machine: Machine
    rows: list[Row]

    def write(self, folder: Path) -> None:
        """Write `SECTION-DEVICE.json` into the folder."""
        text = json.dumps(asdict(self), indent=1, allow_nan=False)
        file_of(folder, self.section, gpu=self.machine.device != "cpu").write_text(text + "\n")


def measure(section: Section, bench: Bench) -> Result:
    """Run a section."""
    machine = describe(bench.device)
    return Result(section.name, bench.level.name, machine, section.run(bench))


def read(folder: Path, section: str, *, gpu: bool) -> Result | None:
    """Return what `Result.write` wrote, or None if there is no such file."""
    path = file_of(folder, section, gpu=gpu)
    if not path.exists():
        return None
    data = json.loads(path.read_text())
    return Result(data["section"], data["level"], Machine(**data["machine"]), data["rows"])


def file_of(folder: Path, section: str, *, gpu: bool) -> Path:
    """Return where the rows of a section are."""
    return folder / f"{section}-{'cuda' if gpu else 'cpu'}.json"


def text_of(section: Section, folder: Path) -> str:
    """Return the Markdown of a section as its files have it, CPU first."""
    parts = [_shown(section, read(folder, section.name, gpu=gpu), "GPU" if gpu else "CPU") for gpu in (False, True)]
    return "\n\n".join(parts)


def _shown(section: Section, result: Result | None, device: str) -> str:
    if result is None:
        return f"{device}: not measured."
    return f"{section.show(result.rows)}\n\n{result.machine}; {result.level} run."
