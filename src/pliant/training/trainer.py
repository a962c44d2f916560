"""Trainer: the files of a run, and its way from a position to the next row, checkpoint, or end."""

from __future__ import annotations

import logging
import random
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from safetensors.torch import save_model

from pliant import atomic
from pliant.metrics import relative_distance
from pliant.optim.agreement import agree
from pliant.report.rows import MetricsRow, append_row, read_rows, write_rows
from pliant.training.build import Data, build_model, judge, load_data, set_up
from pliant.training.checkpoint import (
    has_checkpoint,
    load_checkpoint,
    read_position,
    remove_checkpoint,
    save_checkpoint,
)
from pliant.training.compressors import build_compressor
from pliant.training.descent import DescentLearner
from pliant.training.divergence import DIVERGED, check_sound, diagnosed
from pliant.training.gradients import GradientLearner
from pliant.training.methods import BCDMethod
from pliant.training.position import EpochResult, Position
from pliant.training.watch import Watch, Watches

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

    from pliant.distributed import World
    from pliant.training.folder import RunFolder, RunInfo
    from pliant.training.learner import Learner
    from pliant.training.recipe import Recipe

_LOG = logging.getLogger(__name__)


@dataclass
class Trainer:
    """Trains one run, in one process or as one of several."""

    recipe: Recipe
    folder: RunFolder
    watch: Watch
    data: Data
    learner: Learner
    world: World
    started: float = 0.0

    @classmethod
    def build(cls, recipe: Recipe, folder: RunFolder, watch: Watch | None, world: World) -> Trainer:
        """Build all that a recipe names; the folder is not touched. Collective.

        Raises:
            RankMismatchError: on every process, where they have different recipes.
        """
        if not world.alone:
            agree(recipe.anywhere().to_yaml().splitlines())
        device = world.device(set_up(recipe))
        data = load_data(recipe, device)
        random.seed(recipe.seed)  # torch's own seed is set where the model is built
        np.random.seed(recipe.seed % 2**32)  # noqa: NPY002  (of models that draw from it)
        model = build_model(recipe, data.dataset, device)
        learner = _learner(recipe, folder, data, model, world)
        return cls(recipe, folder, watch or Watches(), data, learner, world)

    @property
    def seconds(self) -> float:
        """Spent training, earlier parts of the run included."""
        return time.monotonic() - self.started

    def begin(self) -> Position:
        """Prepare the weights, write down what is constrained how, and return the first position."""
        plan = self.learner.begin()
        if plan is not None:
            self.world.on_main(lambda: atomic.write_text(self.folder.plan, plan))
        return Position.start(self.learner.captured.device)

    def go_on(self, info: RunInfo, stop: Callable[[], bool]) -> bool:
        """Go on from the checkpoint, or from the start where there is none yet."""
        self.world.on_main(lambda: atomic.remove_leftovers(self.folder.path))
        if not has_checkpoint(self.folder.checkpoint):  # stopped before the first one
            return self.run(info, self.begin(), seconds=0.0, stop=stop)
        self.learner.catch_up(read_position(self.folder.checkpoint))
        position, seconds = load_checkpoint(self.folder.checkpoint, self.learner.captured)
        return self.run(info, position, seconds=seconds, stop=stop)

    def run(self, info: RunInfo, position: Position, *, seconds: float, stop: Callable[[], bool]) -> bool:
        """Train from a position to the end, or until `stop()`; return whether the run is finished."""
        self.started = time.monotonic() - seconds
        self.world.on_main(lambda: self._prepare(info, position))
        self.watch.start(self.learner.outline(), position)
        try:
            with diagnosed(self.learner, position):
                position = self.learner.learn(position, self._on_step, self._on_epoch, stop)
                return self.world.on_main(lambda: self._leave(info, position))
        except DIVERGED as error:
            self._note(info.ending("diverged", self.seconds, reason=str(error)))
            raise
        except BaseException:
            self._note(info.ending("interrupted", self.seconds))
            raise
        finally:
            self.watch.end()

    def _note(self, info: RunInfo) -> None:
        if self.world.is_main:
            with suppress(OSError):  # the disk may be the very reason
                self.folder.write_info(info)

    def _prepare(self, info: RunInfo, position: Position) -> None:
        self.folder.write_info(info)
        self._keep_rows(position.epoch)

    def _on_step(self, position: Position) -> None:
        self.watch.step(position)
        if position.batch and self.learner.saves(position):
            self.world.on_main(lambda: self._save(position))

    def _on_epoch(self, result: EpochResult, position: Position) -> None:
        self.watch.epoch(self.world.on_main(lambda: self._record(result, position)))

    def _record(self, result: EpochResult, position: Position) -> MetricsRow:
        row = self.learner.described(self._row(result, position))
        append_row(self.folder.metrics, row)
        if self.learner.saves(position):
            self._save(position)
        return row

    def _save(self, position: Position) -> None:
        check_sound(self.learner.model, position)  # the last good checkpoint is worth more than this one
        save_checkpoint(self.folder.checkpoint, self.learner.captured, position, seconds=self.seconds)

    def _keep_rows(self, epochs: int) -> None:
        """Drop rows of epochs that will be run again, and say so if rows of epochs that will not are missing."""
        rows = [row for row in read_rows(self.folder.metrics, MetricsRow) if row.epoch <= epochs]
        missing = set(range(1, epochs + 1)) - {row.epoch for row in rows}
        if missing:
            _LOG.warning("%s lacks the rows of epochs %s", self.folder.metrics, ", ".join(map(str, sorted(missing))))
        write_rows(self.folder.metrics, rows)

    def _row(self, result: EpochResult, position: Position) -> MetricsRow:
        plain = self.learner.plain_model()
        return MetricsRow(
            epoch=result.epoch,
            train_loss=result.loss,
            train_accuracy=result.accuracy,
            eval_accuracy=judge(self.recipe, self.data, plain),
            lr=None,
            seconds=round(self.seconds, 3),
            distance=self._distance(plain),
            evaluations=position.evaluations,
        )

    def _distance(self, model: nn.Module) -> float | None:
        probe = self.recipe.probe
        if probe is None:
            return None
        compressor = build_compressor(probe.compressor)
        cut = compressor.select(model, probe.fraction, example=self.data.example())
        return relative_distance(model, compressor.truncate(model, cut))

    def _leave(self, info: RunInfo, position: Position) -> bool:
        if not self.learner.is_done(position):
            self._save(position)
            self.folder.write_info(info.ending("interrupted", self.seconds))
            return False
        check_sound(self.learner.model, position)
        with atomic.replacing([self.folder.weights]) as (weights,):
            save_model(self.learner.plain_model(), str(weights))
        self.folder.write_info(info.ending("finished", self.seconds))
        remove_checkpoint(self.folder.checkpoint)
        return True


def _learner(recipe: Recipe, folder: RunFolder, data: Data, model: nn.Module, world: World) -> Learner:
    if isinstance(recipe.method, BCDMethod):
        return DescentLearner.build(recipe.method, recipe, data, model, world)
    return GradientLearner.build(recipe.method, recipe, folder, data, model, world)
