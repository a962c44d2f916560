"""Learner: what moves the weights of a run, and what it can say about them; files are the trainer's."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

    from pliant.report.rows import MetricsRow
    from pliant.training.checkpoint import Captured
    from pliant.training.position import EpochResult, Position
    from pliant.training.watch import Outline


class Learner(ABC):
    """Learns from data, epoch by epoch; an epoch is one pass over the training images, however they are used."""

    @property
    @abstractmethod
    def model(self) -> nn.Module:
        """The model whose parameters are trained, as of now."""

    @property
    @abstractmethod
    def captured(self) -> Captured:
        """What a checkpoint captures, as of now."""

    @abstractmethod
    def outline(self) -> Outline:
        """Return what is known before the first step."""

    @abstractmethod
    def begin(self) -> str | None:
        """Prepare the weights for the first step and return what is constrained how, as text; None where nothing is."""

    @abstractmethod
    def catch_up(self, position: Position) -> None:
        """Build what was trained at a position, before a checkpoint of it is restored."""

    @abstractmethod
    def learn(
        self,
        position: Position,
        on_step: Callable[[Position], None],
        on_epoch: Callable[[EpochResult, Position], None],
        stop: Callable[[], bool],
    ) -> Position:
        """Go on from a position to the end, or until `stop()`.

        Args:
            position: where to go on; it is moved.
            on_step: called after every step.
            on_epoch: called after every epoch, when the position is that of the next one's start.
            stop: asked after every step.

        Returns:
            The position reached.

        Raises:
            DivergedError: the loss is not finite.
        """

    @abstractmethod
    def is_done(self, position: Position) -> bool:
        """Tell whether a position is the end."""

    @abstractmethod
    def saves(self, position: Position) -> bool:
        """Tell whether there is to be a checkpoint at a position."""

    @abstractmethod
    def plain_model(self) -> nn.Module:
        """Return the model as it is now, in the architecture of the recipe."""

    @abstractmethod
    def described(self, row: MetricsRow) -> MetricsRow:
        """Return a row with what only this learner knows filled in."""
