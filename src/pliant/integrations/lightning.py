"""Lightning: a callback that logs what SFW does and sweeps when fitting ends. Needs the package `lightning`."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from pliant.integrations.setup import Sweep, progress, random_cuts, shrinking_sfw
from pliant.methods import RandomCut
from pliant.structure import Plan


def configure(trainer: Trainer, plan: Plan, *, total: float, momentum: float = 0.9) -> dict[str, Any]:
    """Return what `configure_optimizers` returns: SFW for the length of this fit, its schedule stepped every step.

    Args:
        trainer: whose `estimated_stepping_batches` is the length.
        plan: of the module.
        total: sum of the step sizes over the run.
        momentum: of constrained groups.

    Raises:
        ValueError: if the trainer has no known number of steps.
    """
    steps = trainer.estimated_stepping_batches
    if not 0 < steps < float("inf"):
        raise ValueError(f"SFW needs a run of known length: set max_epochs or max_steps, found {steps} steps")
    optimizer, scheduler = shrinking_sfw(plan, steps=int(steps), total=total, momentum=momentum)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


class PliantCallback(Callback):  # type: ignore[misc]  # its library is not followed
    """Logs shrinkage, share of the initial weights left and feasibility; sweeps at the end of the fit.

    It cuts the model for all batches of a step of `RandomCut`, which Lightning alone does for the last of them only,
    and makes it whole for validation.

    Args:
        sweep: what is cut at the end; None: nothing.
        module: qualified name of the part of the LightningModule that is cut; "" is all of it.
        every_n_steps: how often to log; each time waits for the device.
    """

    def __init__(self, sweep: Sweep | None = None, *, module: str = "", every_n_steps: int = 50) -> None:
        if every_n_steps < 1:
            raise ValueError(f"every_n_steps must be at least 1, found {every_n_steps}")
        self.sweep = sweep
        self.module = module
        self.every_n_steps = every_n_steps
        self._cut_again: list[RandomCut] = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: object, batch_idx: int) -> None:
        """Cut the model for the first batch of a step, if that is what an optimizer does."""
        del pl_module, batch, batch_idx
        for optimizer in random_cuts(trainer.optimizers):
            if not optimizer.begun:
                optimizer.begin()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Make the model whole."""
        del pl_module
        self._cut_again = [optimizer for optimizer in random_cuts(trainer.optimizers) if optimizer.begun]
        for optimizer in self._cut_again:
            optimizer.restore()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Go on with a step that validation came into: its cut is the same."""
        del trainer, pl_module
        for optimizer in self._cut_again:
            optimizer.begin()
        self._cut_again = []

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Make the model whole where the last step was not taken."""
        del pl_module
        for optimizer in random_cuts(trainer.optimizers):
            optimizer.restore()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        """Log now and then."""
        del outputs, batch, batch_idx
        if trainer.global_step % self.every_n_steps == 0:
            self._log(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log at the end of every epoch."""
        self._log(trainer, pl_module)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Sweep, on one process."""
        if self.sweep is not None and trainer.is_global_zero:
            self.sweep.run(pl_module.get_submodule(self.module))

    def _log(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for optimizer in trainer.optimizers:
            pl_module.log_dict(progress(optimizer))
