"""The run folder: where each thing of a run lies, and what is known about the run itself."""

from __future__ import annotations

import json
import os
import platform
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from safetensors import SafetensorError

from pliant import atomic
from pliant.exclusive import exclusive
from pliant.suggestion import command

Status = Literal["running", "finished", "interrupted", "diverged"]


class RunFolderError(ValueError):
    """A run folder is missing, in the way, incomplete or not what it should be."""


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _versions() -> dict[str, str]:
    return {"pliant": version("pliant"), "torch": torch.__version__, "python": platform.python_version()}


def _machine() -> dict[str, Any]:
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {"cpu": _cpu_model(), "cores": os.cpu_count(), "threads": torch.get_num_threads(), "gpus": gpus}


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


@dataclass(frozen=True)
class RunInfo:
    """What is known about a run besides its recipe; times are UTC, `seconds` were spent in training and evaluation.

    `reason` says why a run diverged.
    """

    seed: int
    status: Status = "running"
    reason: str | None = None
    started: str = field(default_factory=_now)
    ended: str | None = None
    seconds: float = 0.0
    resumed: int = 0
    versions: dict[str, str] = field(default_factory=_versions)
    machine: dict[str, Any] = field(default_factory=_machine)

    def ending(self, status: Status, seconds: float, reason: str | None = None) -> RunInfo:
        """Return the information of a run that ends now."""
        return replace(self, status=status, reason=reason, ended=_now(), seconds=round(seconds, 3))


def _checked(info: RunInfo) -> RunInfo:
    if info.status not in get_args(Status):
        raise ValueError(f"status must be one of {', '.join(get_args(Status))}, found {info.status!r:.80}")
    if type(info.seed) is not int or type(info.resumed) is not int:
        raise ValueError("seed and resumed must be whole numbers")
    if not isinstance(info.reason, str | None):
        raise ValueError(f"reason must be text or null, found {type(info.reason).__name__}")
    return info


@dataclass(frozen=True)
class RunFolder:
    """Names of the files of a run."""

    path: Path

    @property
    def recipe(self) -> Path:
        """The recipe with every default and override written out."""
        return self.path / "recipe.yaml"

    @property
    def info(self) -> Path:
        """Seed, versions, machine, times, status."""
        return self.path / "run.json"

    @property
    def plan(self) -> Path:
        """What was constrained how, as text."""
        return self.path / "plan.txt"

    @property
    def cut(self) -> Path:
        """What was cut in the middle of training, by methods that do so."""
        return self.path / "cut.json"

    @property
    def metrics(self) -> Path:
        """A row an epoch."""
        return self.path / "metrics.jsonl"

    @property
    def checkpoint(self) -> Path:
        """What `--resume` needs, beside it the one before; gone when the run is finished."""
        return self.path / "checkpoint.pt"

    @property
    def weights(self) -> Path:
        """The trained model, buffers included."""
        return self.path / "model.safetensors"

    @property
    def sweep(self) -> Path:
        """A row for every compressor and fraction."""
        return self.path / "sweep.jsonl"

    def exists(self) -> bool:
        """Tell whether there is a run in this folder."""
        return self.recipe.is_file() or self.info.is_file()

    def check_free(self, *, overwrite: bool = False) -> None:
        """Check that a new run may be put here.

        Raises:
            RunFolderError: it holds a run and `overwrite` is not set, or something that is no run.
        """
        if self._is_empty() or (overwrite and self.exists() and not self.path.is_symlink()):
            return
        if not self.exists():
            raise RunFolderError(f"{self.path} exists and is no run folder; choose another name or move it away")
        held = "a run that diverged; " if self._holds_diverged() else "a run already; --resume continues it, "
        raise RunFolderError(
            f"{self.path} holds {held}--overwrite replaces it, and -o name=ANOTHER starts another one beside it"
        )

    def _holds_diverged(self) -> bool:
        with suppress(RunFolderError):  # a folder that cannot be read can be replaced
            return self.read_info().status == "diverged"
        return False

    def _is_empty(self) -> bool:
        """Tell whether there is nothing, or only what a process left that was killed before it could write."""
        if not self.path.exists():
            return True
        return self.path.is_dir() and all(atomic.is_leftover(path) for path in self.path.iterdir())

    def create(self, *, overwrite: bool = False) -> None:
        """Make the folder, empty.

        Raises:
            RunFolderError: as for `check_free`, or the system does not allow it.
        """
        self.check_free(overwrite=overwrite)
        with self.storage():
            if self.exists():
                with exclusive(self.path):
                    shutil.rmtree(self.path)
            self.path.mkdir(parents=True, exist_ok=True)
            atomic.remove_leftovers(self.path)

    @contextmanager
    def storage(self) -> Iterator[None]:
        """Turn what the system says about files into what the user can do about it.

        Raises:
            RunFolderError: a file of the run could not be read or written.
        """
        try:
            yield
        except (OSError, SafetensorError) as error:
            raise RunFolderError(
                f"{self.path} cannot be used: {error}. What was saved before is as it was; make room or set the "
                f"permissions, then: {command('train', self.path, '--resume')}"
            ) from error

    def read_info(self) -> RunInfo:
        """Read run.json.

        Raises:
            RunFolderError: there is none, or it is damaged.
        """
        if not self.info.exists():
            raise RunFolderError(
                f"{self.path} holds no run: give the folder that pliant train wrote, such as runs/NAME"
            )
        try:
            return _checked(RunInfo(**json.loads(self.info.read_text(encoding="utf-8"))))
        except (OSError, ValueError, TypeError, RecursionError) as error:
            raise RunFolderError(f"{self.path} is no run folder that can be read: {error}") from error

    def read_finished(self) -> RunInfo:
        """Read run.json of a finished run.

        Raises:
            RunFolderError: there is none, it is damaged, or the run is not finished; the message says what to do.
        """
        info = self.read_info()
        self.check_sound(info)
        if info.status != "finished":
            raise RunFolderError(
                f"{self.path} is {info.status}; finish it with: {command('train', self.path, '--resume')}"
            )
        return info

    def check_sound(self, info: RunInfo) -> None:
        """Check that a run did not diverge.

        Raises:
            RunFolderError: it did, and would again; the message says why, and what to do.
        """
        if info.status == "diverged":
            raise RunFolderError(
                f"{self.path} diverged, and would again: {info.reason}. Train it with other settings: "
                f"{command('train', self.recipe, '-o', 'KEY=VALUE', '--overwrite')}, or under another name with "
                "-o name=ANOTHER"
            )

    def write_info(self, info: RunInfo) -> None:
        """Write run.json."""
        atomic.write_text(self.info, json.dumps(asdict(info), indent=2) + "\n")
