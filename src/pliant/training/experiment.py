"""A run from its recipe to its folder: started, interrupted, resumed, finished."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import load_model, save_model

from pliant import atomic
from pliant.compress import Cut
from pliant.distributed import World
from pliant.metrics import relative_distance
from pliant.optim import check_ranks
from pliant.report.rows import MetricsRow, append_row, read_rows, write_rows
from pliant.training.build import PRECISIONS, Data, build_model, device_of, judge, load_data
from pliant.training.checkpoint import Trainee, load_checkpoint, read_position, save_checkpoint
from pliant.training.compressors import build_compressor
from pliant.training.folder import RunFolder, RunFolderError, RunInfo
from pliant.training.loop import ALONE, fit
from pliant.training.methods.built import Method
from pliant.training.methods.section import Scene
from pliant.training.position import EpochResult, Position
from pliant.training.recipe import Recipe
from pliant.training.watch import Outline, Watch, Watches

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

    from pliant.data import Batches


@dataclass(frozen=True)
class Run:
    """A trained model and the data that it was made for."""

    folder: RunFolder
    recipe: Recipe
    model: nn.Module
    data: Data


def load_run(folder: RunFolder, data_root: Path | None = None) -> Run:
    """Load a finished run.

    Args:
        folder: of the run.
        data_root: where the data is now; None: where the recipe says.

    Raises:
        RunFolderError: there is none in the folder, or it is not finished.
    """
    status = folder.read_info().status
    if status != "finished" or not folder.weights.is_file():
        raise RunFolderError(f"{folder.path} is {status}; finish it with: pliant train {folder.path} --resume")
    moved = [] if data_root is None else [f"data.root={data_root}"]
    recipe = Recipe.from_yaml(folder.recipe, moved)
    device = _set_up(recipe)
    data = load_data(recipe, device)
    model = build_model(recipe, data.dataset, device)
    load_model(model, folder.weights, device=str(device))
    return Run(folder, recipe, model.eval(), data)


def train(
    recipe: Recipe,
    folder: RunFolder,
    *,
    overwrite: bool = False,
    watch: Watch | None = None,
    stop: Callable[[], bool] = lambda: False,
    world: World = ALONE,
) -> bool:
    """Train from the start into a new run folder.

    Args:
        recipe: of the run.
        folder: where it goes.
        overwrite: replace a run that is there.
        watch: follows the run.
        stop: asked after every batch; True saves a checkpoint and returns.
        world: the processes that train together; only the first one writes.

    Returns:
        Whether the run is finished.

    Raises:
        RunFolderError: the folder is taken.
    """
    world.on_main(lambda: folder.check_free(overwrite=overwrite))  # before anything is loaded
    trainer = _Trainer.build(recipe, folder, watch, world)
    world.on_main(lambda: folder.create(overwrite=overwrite))
    world.on_main(lambda: atomic.write_text(folder.recipe, recipe.to_yaml()))
    return trainer.run(RunInfo(recipe.seed), trainer.begin(), seconds=0.0, stop=stop)


def resume(
    folder: RunFolder,
    *,
    recipe: Recipe | None = None,
    watch: Watch | None = None,
    stop: Callable[[], bool] = lambda: False,
    world: World = ALONE,
) -> bool:
    """Go on with an interrupted run; on a CPU it ends with the very weights of an uninterrupted one.

    Args:
        folder: of the run.
        recipe: what the caller believes the recipe is; None: whatever the folder says.
        watch: follows the run.
        stop: as for `train`.
        world: as for `train`.

    Returns:
        Whether the run is finished.

    Raises:
        RunFolderError: there is nothing to resume, or the recipe is another one.
    """
    if not folder.exists():
        raise RunFolderError(f"{folder.path} holds no run to resume; start it without --resume")
    info, stored = folder.read_info(), Recipe.from_yaml(folder.recipe)
    if recipe is not None and recipe != stored:
        raise RunFolderError(
            f"{folder.path} was started with another recipe; these differ: {_differences(recipe, stored)}"
        )
    if info.status == "finished":
        raise RunFolderError(f"{folder.path} is finished already: there is nothing to resume")
    trainer = _Trainer.build(stored, folder, watch, world)
    info = replace(info, status="running", ended=None, resumed=info.resumed + 1)
    if not folder.checkpoint.is_file():  # stopped before the first checkpoint
        return trainer.run(info, trainer.begin(), seconds=0.0, stop=stop)
    trainer.catch_up(read_position(folder.checkpoint))
    position, seconds = load_checkpoint(folder.checkpoint, trainer.trainee)
    return trainer.run(info, position, seconds=seconds, stop=stop)


@dataclass
class _Trainer:
    recipe: Recipe
    folder: RunFolder
    watch: Watch
    data: Data
    batches: Batches
    method: Method
    world: World
    started: float = 0.0

    @classmethod
    def build(cls, recipe: Recipe, folder: RunFolder, watch: Watch | None, world: World) -> _Trainer:
        device = world.device(_set_up(recipe))
        data = load_data(recipe, device)
        model = build_model(recipe, data.dataset, device)
        batches = data.train_batches(recipe.data, recipe.seed)
        method = recipe.method.build(Scene(model, data.example(), recipe.train.epochs, len(batches), recipe.seed))
        check_ranks(method.optimizer)
        return cls(recipe, folder, watch or Watches(), data, batches, method, world)

    @property
    def trainee(self) -> Trainee:
        return Trainee(self.method.model, self.method.optimizer, self.method.scheduler)

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started

    def begin(self) -> Position:
        plan = self.method.plan
        if plan is not None:
            plan.scale_weights(self.method.start)
            moved = plan.make_feasible()
            notes = [
                f"scaled into its region: {', '.join(m.names)} from {m.value:.4g} to {m.radius:.4g}" for m in moved
            ]
            self.world.on_main(lambda: atomic.write_text(self.folder.plan, "\n".join([str(plan), *notes]) + "\n"))
        return Position.start(next(self.method.model.parameters()).device)

    def catch_up(self, position: Position) -> None:
        """Make the model that was trained at a position, where the method switches to another one on the way."""
        switch = self.method.switch
        if switch is not None and (position.epoch, position.batch) > (switch.epoch, 0):
            cut = Cut.from_json(self.folder.cut.read_text(encoding="utf-8"))
            self.method = switch.perform(self.method, cut)

    def run(self, info: RunInfo, position: Position, *, seconds: float, stop: Callable[[], bool]) -> bool:
        self.started = time.monotonic() - seconds
        self.world.on_main(lambda: self._prepare(info, position))
        shrinkage = None if self.method.plan is None else lambda: self.method.shrinkage() or 0.0
        self.watch.start(Outline(self.recipe.train.epochs, len(self.batches), shrinkage), position)
        try:
            position = self._fit(position, stop)
        except BaseException:
            if self.world.is_main:
                self.folder.write_info(info.ending("interrupted", self.seconds))
            raise
        finally:
            self.watch.end()
        return self.world.on_main(lambda: self._leave(info, position))

    def _prepare(self, info: RunInfo, position: Position) -> None:
        self.folder.write_info(info)
        rows = read_rows(self.folder.metrics, MetricsRow)
        write_rows(self.folder.metrics, [row for row in rows if row.epoch <= position.epoch])

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

        return fit(
            self.method.model,
            self.method.optimizer,
            self.batches,
            epochs=epochs,
            scheduler=self.method.scheduler,
            autocast=PRECISIONS[self.recipe.train.precision],
            position=position,
            on_step=self.watch.step,
            on_epoch=on_epoch,
            stop=stop,
            world=self.world,
        )

    def _record(self, result: EpochResult, position: Position) -> MetricsRow:
        row = self._row(result, position)
        append_row(self.folder.metrics, row)
        save_checkpoint(self.folder.checkpoint, self.trainee, position, seconds=self.seconds)
        return row

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
            save_checkpoint(self.folder.checkpoint, self.trainee, position, seconds=self.seconds)
            self.folder.write_info(info.ending("interrupted", self.seconds))
            return False
        save_model(self.method.plain_model(), str(self.folder.weights))
        self.folder.write_info(info.ending("finished", self.seconds))
        self.folder.checkpoint.unlink(missing_ok=True)
        return True


def _set_up(recipe: Recipe) -> torch.device:
    if recipe.train.threads is not None:
        torch.set_num_threads(recipe.train.threads)
    return device_of(recipe.train.device)


def _differences(one: Recipe, other: Recipe) -> str:
    a, b = one.model_dump(), other.model_dump()
    return ", ".join(name for name in a if a[name] != b[name])
