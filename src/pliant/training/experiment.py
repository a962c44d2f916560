"""A run from its recipe to its folder: started, interrupted, resumed, finished or diverged."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors.torch import load_model

from pliant import atomic
from pliant.exclusive import exclusive
from pliant.suggestion import command
from pliant.training.build import Data, build_model, load_data, set_up
from pliant.training.differences import differences
from pliant.training.folder import RunFolder, RunFolderError, RunInfo
from pliant.training.loop import ALONE
from pliant.training.recipe import Recipe
from pliant.training.trainer import Trainer

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

    from pliant.distributed import World
    from pliant.training.watch import Watch


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
    folder.read_finished()
    if not folder.weights.is_file():
        raise RunFolderError(
            f"{folder.path} is finished, but {folder.weights.name} is missing; train it again: "
            f"{command('train', folder.recipe, '--overwrite')}"
        )
    moved = [] if data_root is None else [f"data.root={data_root}"]
    recipe = Recipe.from_yaml(folder.recipe, moved)
    device = set_up(recipe)
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
    trainer = Trainer.build(recipe, folder, watch, world)
    world.on_main(lambda: folder.create(overwrite=overwrite))
    with folder.storage(), ExitStack() as held:
        world.on_main(lambda: held.enter_context(exclusive(folder.path)))
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
        RunFolderError: there is nothing to resume, the run diverged, or the recipe is another one.
    """
    if not folder.exists():
        raise RunFolderError(f"{folder.path} holds no run to resume; start it without --resume")
    with ExitStack() as held:
        world.on_main(lambda: held.enter_context(exclusive(folder.path)))  # from here on the folder says what is so
        stored = Recipe.from_yaml(folder.recipe)
        info = folder.read_info() if folder.info.exists() else RunInfo(stored.seed)  # killed before it was written
        if recipe is not None and recipe != stored:
            raise RunFolderError(
                f"{folder.path} was started with another recipe; these differ: {_differences(stored, recipe)}. "
                f"Go on with it as it is: {command('train', folder.path, '--resume')}, or start another run: "
                "-o name=ANOTHER without --resume"
            )
        if info.status == "finished":
            raise RunFolderError(f"{folder.path} is finished already: there is nothing to resume")
        folder.check_sound(info)
        trainer = Trainer.build(stored, folder, watch, world)
        with folder.storage():
            return trainer.go_on(replace(info, status="running", ended=None, resumed=info.resumed + 1), stop)


def complete(
    recipe: Recipe,
    folder: RunFolder,
    *,
    watch: Watch | None = None,
    stop: Callable[[], bool] = lambda: False,
    world: World = ALONE,
) -> bool:
    """Do whatever is missing until the run is finished: train it, go on with it, or nothing.

    Args:
        recipe: of the run; what it says about sweeps and searches may differ from a finished run's.
        folder: where the run is, or goes.
        watch: as for `train`.
        stop: as for `train`.
        world: as for `train`.

    Returns:
        Whether the run is finished.

    Raises:
        RunFolderError: the folder holds the run of another recipe, or one that diverged.
    """
    if not folder.exists():
        return train(recipe, folder, watch=watch, stop=stop, world=world)
    stored = Recipe.from_yaml(folder.recipe)
    if differing := _differences(stored, recipe, apart_from=("sweep", "tune")):
        raise RunFolderError(
            f"{folder.path} was trained by another recipe; these differ: {differing}. Choose another name, or remove it"
        )
    if folder.info.exists() and folder.read_info().status == "finished":
        return True
    return resume(folder, watch=watch, stop=stop, world=world)


def _differences(before: Recipe, now: Recipe, apart_from: tuple[str, ...] = ()) -> str:
    return differences(before.model_dump(exclude=set(apart_from)), now.model_dump(exclude=set(apart_from)))
