"""Lightning: a callback that logs what SFW does and sweeps when fitting ends. Needs the package `lightning`."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from pliant.integrations.setup import Sweep, progress, random_cuts, refuse_accumulation, shrinking_sfw
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

    It cuts the model for all batches of a step of `RandomCut`, which Lightning alone does for the last of them only.
    After every batch, and where the fit fails, the model is whole, for validation, checkpoints and the callbacks that
    come after this one. It refuses `CrAM` with accumulated gradients, of which that takes the last alone.

    Numbers are logged as `progress` names them; those of one `SFW` out of several end in "-" and its place among the
    optimizers, such as "pliant/shrinkage-0".

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
        self._logged = 0  # the step that was logged last

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: object, batch_idx: int) -> None:
        """Cut the model for a batch, if that is what an optimizer does: all batches of a step at the same cut.

        Raises:
            ValueError: if gradients are accumulated for `CrAM`.
        """
        del pl_module, batch, batch_idx
        if trainer.accumulate_grad_batches > 1:
            refuse_accumulation(trainer.optimizers, f"accumulate_grad_batches={trainer.accumulate_grad_batches}")
        for optimizer in random_cuts(trainer.optimizers):
            optimizer.begin()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        """Make the model whole until the next batch, and log now and then."""
        del outputs, batch, batch_idx
        _pause(trainer)
        if trainer.global_step % self.every_n_steps == 0 and trainer.global_step != self._logged:
            self._log(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Make the model whole where the rest of the epoch was skipped, and log."""
        _pause(trainer)
        self._log(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget the last step where it was not taken."""
        del pl_module
        _restore(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Make the model whole."""
        del pl_module, exception
        _restore(trainer)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Sweep, on one process."""
        if self.sweep is not None and trainer.is_global_zero:
            self.sweep.run(pl_module.get_submodule(self.module))

    def _log(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._logged = trainer.global_step
        found = {place: numbers for place, one in enumerate(trainer.optimizers) if (numbers := progress(one))}
        for place, numbers in found.items():
            mark = f"-{place}" if len(found) > 1 else ""
            pl_module.log_dict({name + mark: value for name, value in numbers.items()})


def _pause(trainer: Trainer) -> None:
    for optimizer in random_cuts(trainer.optimizers):
        optimizer.pause()


def _restore(trainer: Trainer) -> None:
    for optimizer in random_cuts(trainer.optimizers):
        optimizer.restore()
