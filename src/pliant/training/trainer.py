"""Trainer: what a run is made of, and its way from a position to the next row, checkpoint, or end."""

from __future__ import annotations

import logging
import math
import random
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from safetensors.torch import save_model

from pliant import atomic
from pliant.compress import Cut
from pliant.metrics import relative_distance
from pliant.optim import check_ranks
from pliant.report.rows import MetricsRow, append_row, read_rows, write_rows
from pliant.training.build import PRECISIONS, Data, build_model, judge, load_data, set_up
from pliant.training.checkpoint import (
    Trainee,
    has_checkpoint,
    load_checkpoint,
    read_position,
    remove_checkpoint,
    save_checkpoint,
)
from pliant.training.compressors import build_compressor
from pliant.training.loop import DivergedError, fit
from pliant.training.methods.section import Scene
from pliant.training.position import EpochResult, Position
from pliant.training.watch import Outline, Watch, Watches

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

    from pliant.data import Batches
    from pliant.distributed import World
    from pliant.training.folder import RunFolder, RunInfo
    from pliant.training.methods.built import Method
    from pliant.training.recipe import Recipe

_LOG = logging.getLogger(__name__)


@dataclass
class Trainer:
    """Trains one run, in one process or as one of several."""

    recipe: Recipe
    folder: RunFolder
    watch: Watch
    data: Data
    batches: Batches
    method: Method
    world: World
    started: float = 0.0

    @classmethod
    def build(cls, recipe: Recipe, folder: RunFolder, watch: Watch | None, world: World) -> Trainer:
        """Build all that a recipe names; the folder is not touched."""
        device = world.device(set_up(recipe))
        data = load_data(recipe, device)
        random.seed(recipe.seed)  # torch's own seed is set where the model is built
        np.random.seed(recipe.seed % 2**32)  # noqa: NPY002  (of models that draw from it)
        model = build_model(recipe, data.dataset, device)
        batches = data.train_batches(recipe.data, recipe.seed)
        method = recipe.method.build(Scene(model, data.example(), recipe.train.epochs, len(batches), recipe.seed))
        check_ranks(method.optimizer)
        return cls(recipe, folder, watch or Watches(), data, batches, method, world)

    @property
    def trainee(self) -> Trainee:
        """What a checkpoint captures."""
        return Trainee(self.method.model, self.method.optimizer, self.method.scheduler)

    @property
    def seconds(self) -> float:
        """Spent training, earlier parts of the run included."""
        return time.monotonic() - self.started

    def begin(self) -> Position:
        """Scale the weights as the plan asks, write the plan down, and return the first position."""
        plan = self.method.plan
        if plan is not None:
            plan.scale_weights(self.method.start)
            moved = plan.make_feasible()
            notes = [
                f"scaled into its region: {', '.join(m.names)} from {m.value:.4g} to {m.radius:.4g}" for m in moved
            ]
            self.world.on_main(lambda: atomic.write_text(self.folder.plan, "\n".join([str(plan), *notes]) + "\n"))
        return Position.start(next(self.method.model.parameters()).device)

    def _catch_up(self, position: Position) -> None:
        """Make the model that was trained at a position, where the method switches to another one on the way."""
        switch = self.method.switch
        if switch is not None and (position.epoch, position.batch) > (switch.epoch, 0):
            cut = Cut.from_json(self.folder.cut.read_text(encoding="utf-8"))
            self.method = switch.perform(self.method, cut)

    def go_on(self, info: RunInfo, stop: Callable[[], bool]) -> bool:
        """Go on from the checkpoint, or from the start where there is none yet."""
        self.world.on_main(lambda: atomic.remove_leftovers(self.folder.path))
        if not has_checkpoint(self.folder.checkpoint):  # stopped before the first one
            return self.run(info, self.begin(), seconds=0.0, stop=stop)
        self._catch_up(read_position(self.folder.checkpoint))
        position, seconds = load_checkpoint(self.folder.checkpoint, self.trainee)
        return self.run(info, position, seconds=seconds, stop=stop)

    def run(self, info: RunInfo, position: Position, *, seconds: float, stop: Callable[[], bool]) -> bool:
        """Train from a position to the end, or until `stop()`; return whether the run is finished."""
        self.started = time.monotonic() - seconds
        self.world.on_main(lambda: self._prepare(info, position))
        shrinkage = None if self.method.plan is None else lambda: self.method.shrinkage() or 0.0
        self.watch.start(Outline(self.recipe.train.epochs, len(self.batches), shrinkage), position)
        try:
            position = self._fit(position, stop)
            return self.world.on_main(lambda: self._leave(info, position))
        except BaseException:
            if self.world.is_main:
                with suppress(OSError):  # the disk may be the very reason
                    self.folder.write_info(info.ending("interrupted", self.seconds))
            raise
        finally:
            self.watch.end()

    def _prepare(self, info: RunInfo, position: Position) -> None:
        self.folder.write_info(info)
        self._keep_rows(position.epoch)

    def _fit(self, position: Position, stop: Callable[[], bool]) -> Position:
        switch = self.method.switch
        if switch is not None:
            position = self._stretch(position, switch.epoch, stop)
            if position.epoch < switch.epoch:
                return position
            cut = switch.cut(self.method.model, self.data.example())
            self.world.on_main(lambda: atomic.write_text(self.folder.cut, cut.to_json()))
            self.method = switch.perform(self.method, cut)
        return self._stretch(position, self.recipe.train.epochs, stop)

    def _stretch(self, position: Position, epochs: int, stop: Callable[[], bool]) -> Position:
        def on_epoch(result: EpochResult) -> None:
            self.watch.epoch(self.world.on_main(lambda: self._record(result, position)))

        def on_step(position: Position) -> None:
            self.watch.step(position)
            if every is not None and position.batch % every == 0:
                self.world.on_main(lambda: self._save(position))

        every = self.recipe.train.checkpoint_every

        return fit(
            self.method.model,
            self.method.optimizer,
            self.batches,
            epochs=epochs,
            scheduler=self.method.scheduler,
            autocast=PRECISIONS[self.recipe.train.precision],
            position=position,
            on_step=on_step,
            on_epoch=on_epoch,
            stop=stop,
            world=self.world,
        )

    def _record(self, result: EpochResult, position: Position) -> MetricsRow:
        row = self._row(result, position)
        append_row(self.folder.metrics, row)
        self._save(position)
        return row

    def _save(self, position: Position) -> None:
        if not math.isfinite(position.mean_loss()):  # the last good checkpoint is worth more than this one
            raise DivergedError(
                f"the training loss is not finite in epoch {position.epoch + 1}; lower the learning rate"
            )
        save_checkpoint(self.folder.checkpoint, self.trainee, position, seconds=self.seconds)

    def _keep_rows(self, epochs: int) -> None:
        """Drop rows of epochs that will be run again, and say so if rows of epochs that will not are missing."""
        rows = [row for row in read_rows(self.folder.metrics, MetricsRow) if row.epoch <= epochs]
        missing = set(range(1, epochs + 1)) - {row.epoch for row in rows}
        if missing:
            _LOG.warning("%s lacks the rows of epochs %s", self.folder.metrics, ", ".join(map(str, sorted(missing))))
        write_rows(self.folder.metrics, rows)

    def _row(self, result: EpochResult, position: Position) -> MetricsRow:
        plain = self.method.plain_model()
        return MetricsRow(
            epoch=result.epoch,
            train_loss=result.loss,
            train_accuracy=result.accuracy,
            eval_accuracy=judge(self.recipe, self.data, plain),
            lr=self.method.lr(),
            seconds=round(self.seconds, 3),
            shrinkage=self.method.shrinkage(),
            kept=self.method.kept(),
            distance=self._distance(plain),
            evaluations=position.evaluations,
            penalty=self.method.penalty(),
        )

    def _distance(self, model: nn.Module) -> float | None:
        probe = self.recipe.probe
        if probe is None:
            return None
        compressor = build_compressor(probe.compressor)
        cut = compressor.select(model, probe.fraction, example=self.data.example())
        return relative_distance(model, compressor.truncate(model, cut))

    def _leave(self, info: RunInfo, position: Position) -> bool:
        if position.epoch < self.recipe.train.epochs:
            self._save(position)
            self.folder.write_info(info.ending("interrupted", self.seconds))
            return False
        with atomic.replacing([self.folder.weights]) as (weights,):
            save_model(self.method.plain_model(), str(weights))
        self.folder.write_info(info.ending("finished", self.seconds))
        remove_checkpoint(self.folder.checkpoint)
        return True
