"""Method: what moves the weights of a run, built from its section."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from pliant.methods.outer import innermost
from pliant.optim import SFW, Shrinkage
from pliant.training import schedules

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor, nn
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler

    from pliant.methods import ModuleChange
    from pliant.structure import Plan
    from pliant.training.methods.switch import Switch

Schedule = Literal["constant", "linear", "cosine", "warm-cosine"]
SCHEDULES: dict[str, schedules.Schedule] = {
    "constant": schedules.Constant(),
    "linear": schedules.Linear(),
    "cosine": schedules.Cosine(),
    "warm-cosine": schedules.WarmCosine(),
}


@dataclass(frozen=True)
class Method:
    """What moves the weights.

    Args:
        model: that is trained: the scene's, or the changed one.
        optimizer: over all of its trainable parameters.
        scheduler: to be stepped after every batch.
        plan: what is constrained how; None where nothing is.
        start: factor on the constrained weights before the first step.
        scheduled: the first parameter group that the schedule drives.
        change: how the model was changed; None where the plain architecture is trained.
        switch: a change in the middle of training; None for all methods but those that claim `Claim.RETRAINED`.
        regulariser: returns the value of what is minimised besides the loss; None where nothing is.
    """

    model: nn.Module
    optimizer: Optimizer
    scheduler: LRScheduler
    plan: Plan | None = None
    start: float = 1.0
    scheduled: int = 0
    change: ModuleChange | None = None
    switch: Switch | None = None
    regulariser: Callable[[], Tensor] | None = None

    def plain_model(self) -> nn.Module:
        """Return the model in its plain architecture: the trained one itself, or a collapsed copy."""
        return self.model if self.change is None else self.change.collapse(self.model)

    def lr(self) -> float:
        """Return the learning rate of the first group that the schedule drives, as it is now."""
        return float(self.optimizer.param_groups[self.scheduled]["lr"])

    def shrinkage(self) -> float | None:
        """Return the sum of the step sizes so far, or None where nothing is constrained; waits for the device."""
        sfw = _sfw_in(self.optimizer)
        return None if sfw is None else sfw.total_shrinkage()

    def kept(self) -> float | None:
        """Return the share of the initial weights that is left, or None; waits for the device."""
        sfw = _sfw_in(self.optimizer)
        return None if sfw is None else sfw.kept_share()

    def penalty(self) -> float | None:
        """Return the value of the regulariser, or None where there is none; waits for the device."""
        return None if self.regulariser is None else float(self.regulariser().detach())


def scheduled(
    model: nn.Module,
    optimizer: Optimizer,
    schedule: Schedule,
    steps: int,
    **extra: Any,  # noqa: ANN401  (fields of Method)
) -> Method:
    """Put a schedule on an optimizer; groups whose step rule has a profile of its own keep their rate.

    Args:
        model: that is trained.
        optimizer: over its parameters.
        schedule: by name.
        steps: of the whole run.
        extra: other fields of `Method`.
    """
    profiled = [_has_profile(group) for group in optimizer.param_groups]
    rules = [SCHEDULES["constant" if own else schedule] for own in profiled]
    scheduler = schedules.scheduler_for(optimizer, rules, steps)
    first = profiled.index(False) if False in profiled else 0
    return Method(model, optimizer, scheduler, scheduled=first, **extra)


def _has_profile(group: dict[str, Any]) -> bool:
    return group.get("region") is not None and isinstance(group["step_rule"], Shrinkage)


def _sfw_in(optimizer: Optimizer) -> SFW | None:
    found = innermost(optimizer)
    return found if isinstance(found, SFW) else None
