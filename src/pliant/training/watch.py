"""Watch: who follows a run while it goes on, such as a progress bar."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from pliant.report.rows import MetricsRow
    from pliant.training.position import Position


@dataclass(frozen=True)
class Outline:
    """What is known before the first step.

    Args:
        epochs: of the whole run.
        batches: of an epoch.
        shrinkage: gives the total shrinkage so far, waiting for the device; None where nothing is constrained.
    """

    epochs: int
    batches: int
    shrinkage: Callable[[], float] | None


class Watch(ABC):
    """Follows a run. Reading the numbers of a position waits for the device: a few times a second is enough."""

    @abstractmethod
    def start(self, outline: Outline, position: Position) -> None:
        """Training starts, or goes on, at this position."""

    @abstractmethod
    def step(self, position: Position) -> None:
        """A batch is done."""

    @abstractmethod
    def epoch(self, row: MetricsRow) -> None:
        """An epoch is done and evaluated."""

    @abstractmethod
    def end(self) -> None:
        """Training is over, whatever the reason."""


class Watches(Watch):
    """Any number of watches, none included."""

    def __init__(self, *members: Watch) -> None:
        self.members = members

    def start(self, outline: Outline, position: Position) -> None:
        """Tell all."""
        for member in self.members:
            member.start(outline, position)

    def step(self, position: Position) -> None:
        """Tell all."""
        for member in self.members:
            member.step(position)

    def epoch(self, row: MetricsRow) -> None:
        """Tell all."""
        for member in self.members:
            member.epoch(row)

    def end(self) -> None:
        """Tell all."""
        for member in self.members:
            member.end()
