"""Following a run: a progress bar in a terminal, a line an epoch elsewhere, TensorBoard on request."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from pliant.report.rows import MetricsRow
from pliant.training.position import Position
from pliant.training.watch import Outline, Watch, Watches

_SECONDS_BETWEEN_READINGS = 0.4


def watch_on(console: Console, *, tensorboard: Path | None = None) -> Watch:
    """Return what fits the console, and TensorBoard if a folder for it is given."""
    main: Watch = Bar(console) if console.is_terminal else Lines(console)
    return main if tensorboard is None else Watches(main, TensorBoard(tensorboard))


class Bar(Watch):
    """A bar with loss, accuracy, shrinkage and time left."""

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            TextColumn("epoch {task.fields[epoch]}"),
            BarColumn(),
            TextColumn("loss {task.fields[loss]}  acc {task.fields[accuracy]}{task.fields[extra]}"),
            TimeRemainingColumn(),
            console=console,
        )
        self._read_at = 0.0
        self._eval = ""

    def start(self, outline: Outline, position: Position) -> None:
        """Show the bar."""
        self._outline = outline
        done = position.epoch * outline.batches + position.batch
        fields: dict[str, Any] = {
            "epoch": f"{position.epoch + 1}/{outline.epochs}",
            "loss": "-",
            "accuracy": "-",
            "extra": "",
        }
        self._task = self._progress.add_task("train", total=outline.epochs * outline.batches, completed=done, **fields)
        self._progress.start()

    def step(self, position: Position) -> None:
        """Move the bar a few times a second."""
        now = time.monotonic()
        if now - self._read_at < _SECONDS_BETWEEN_READINGS:
            return
        self._read_at = now
        shrinkage = self._outline.shrinkage
        extra = "" if shrinkage is None else f"  S {shrinkage():.2f}"
        self._progress.update(
            self._task,
            completed=position.epoch * self._outline.batches + position.batch,
            epoch=f"{position.epoch + 1}/{self._outline.epochs}",
            loss=f"{position.mean_loss():.3f}",
            accuracy=f"{position.accuracy():.1%}",
            extra=extra + self._eval,
        )

    def epoch(self, row: MetricsRow) -> None:
        """Show the accuracy on unseen images."""
        self._eval = f"  eval {row.eval_accuracy:.1%}{_measured(row)}"
        self._progress.update(self._task, completed=row.epoch * self._outline.batches)

    def end(self) -> None:
        """Leave the bar as it is."""
        self._progress.stop()


class Lines(Watch):
    """A line an epoch, for logs and pipes."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._epochs = 0

    def start(self, outline: Outline, position: Position) -> None:
        """Remember the number of epochs."""
        self._epochs = outline.epochs
        if position.epoch or position.batch:
            self._console.print(f"going on in epoch {position.epoch + 1}, after {position.batch} batches")

    def step(self, position: Position) -> None:
        """Say nothing."""

    def epoch(self, row: MetricsRow) -> None:
        """Print the row."""
        extra = "" if row.shrinkage is None else f"  S {row.shrinkage:.2f}"
        extra += _measured(row)
        self._console.print(
            f"epoch {row.epoch}/{self._epochs}  loss {row.train_loss:.4f}  train {row.train_accuracy:.2%}  "
            f"eval {row.eval_accuracy:.2%}{extra}  {row.seconds:.1f} s"
        )

    def end(self) -> None:
        """Say nothing."""


class TensorBoard(Watch):
    """Event files for TensorBoard, a point an epoch.

    Raises:
        ImportError: the package tensorboard is not installed; the message says how to get it.
    """

    def __init__(self, folder: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415  (an optional package)
        except ImportError as error:
            raise ImportError("--tensorboard needs a package: pip install 'pliant[tensorboard]'") from error
        self._make: Callable[[], Any] = lambda: SummaryWriter(str(folder))

    def start(self, outline: Outline, position: Position) -> None:  # noqa: ARG002  (the file needs neither)
        """Open the event file, now that the run folder exists."""
        self._writer = self._make()

    def step(self, position: Position) -> None:
        """Write nothing."""

    def epoch(self, row: MetricsRow) -> None:
        """Write every number of the row."""
        for name, value in asdict(row).items():
            if name != "epoch" and value is not None:
                self._writer.add_scalar(name, value, row.epoch)

    def end(self) -> None:
        """Close the event file."""
        self._writer.close()


def _measured(row: MetricsRow) -> str:
    """What a sweep of block coordinate descent has measured."""
    known = {"F": row.objective, "gap": row.gap, "residual": row.residual}
    return "".join(f"  {name} {value:.4g}" for name, value in known.items() if value is not None)
