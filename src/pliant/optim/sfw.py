"""SFW: Stochastic Frank-Wolfe with momentum as a torch optimizer; one parameter group is one region."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, overload

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import ParamsT

from pliant.optim.diagnostics import GroupDiagnostics, diagnose
from pliant.optim.group import OBJECTS, NonFinite, check_group, live, names, plain
from pliant.optim.point import Point
from pliant.optim.steps import GradientScaled, StepRule
from pliant.regions.region import Region
from pliant.structure.plan import Plan


class NonFiniteGradientError(ArithmeticError):
    """A gradient holds NaN or infinity; no weight and no state was touched."""


class SFW(Optimizer):
    """Stochastic Frank-Wolfe.

    For every point theta of a region, with gradient g:

        m     = momentum * m + (1 - dampening) * g
        v     = region.lmo(m)
        alpha = clamp(lr * factor, 0, 1),  the factor given by the step rule
        theta = (1 - alpha) * theta + alpha * v

    Feasible weights stay feasible, since theta moves on a segment inside the region. A group whose region is None is
    free: it takes the step of `torch.optim.SGD` with the group's own lr, momentum and weight_decay.

    Where the region takes one tensor, every parameter of the group is a point of its own; where it takes several, the
    group's parameters, in order, are one point. A parameter without gradient does not move.

    Args:
        params: a `Plan`, its `param_groups()`, or groups of your own, each with a "region" (a `Region`, or None).
        lr: multiplies the step rule's factor; the rate of `torch.optim.SGD` is a good start under `GradientScaled`,
            1 under `Shrinkage`.
        momentum: in [0, 1).
        dampening: in [0, 1); 0 is heavy ball.
        weight_decay: of free groups only, at least 0.
        step_rule: how far to go.
        nonfinite: what to do about NaN or infinite gradients.

    Raises:
        ValueError: if a hyper-parameter is out of range, a group has no region, the number of parameters does not fit
            the region, or a parameter is sparse, complex or of less than 32 bits.

    Reference: Zimmer, Spiegel, Pokutta, "Compression-aware training of neural networks using Frank-Wolfe" (2022).
    """

    def __init__(
        self,
        params: ParamsT | Plan,
        *,
        lr: float | Tensor,
        momentum: float = 0.9,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        step_rule: StepRule | None = None,
        nonfinite: NonFinite = NonFinite.RAISE,
    ) -> None:
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "dampening": dampening,
            "weight_decay": weight_decay,
            "step_rule": GradientScaled() if step_rule is None else step_rule,
            "nonfinite": nonfinite,
        }
        super().__init__(params.param_groups() if isinstance(params, Plan) else params, defaults)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group; it must say its "region" (a `Region`, or None for a free group)."""
        super().add_param_group(param_group)
        try:
            check_group(self.param_groups[-1])
        except ValueError:
            self.param_groups.pop()
            raise

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Take one step.

        Args:
            closure: re-evaluates the model and returns the loss, as for every torch optimizer.

        Raises:
            NonFiniteGradientError: naming the parameters, before any weight is touched.
            ValueError: if a gradient is sparse, likewise.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        if self._usable():
            for group in self.param_groups:
                if group["region"] is None:
                    self._free_step(group)
                else:
                    for point in self.points(group):
                        point.step(group)
        return loss

    def points(self, group: dict[str, Any]) -> Iterator[Point]:
        """Yield the points of a constrained group that have a gradient."""
        params = group["params"]
        labels = names(group)
        region: Region = group["region"]
        for start in range(0, len(params), region.arity):
            part = slice(start, start + region.arity)
            yield Point(region, tuple(labels[part]), params[part], [self.state[p] for p in params[part]])

    def _free_step(self, group: dict[str, Any]) -> None:
        for p in group["params"]:
            if p.grad is None:
                continue
            direction = p.grad.add(p, alpha=group["weight_decay"]) if group["weight_decay"] else p.grad
            if group["momentum"]:
                state = self.state[p]
                if "momentum_buffer" not in state:
                    state["momentum_buffer"] = torch.clone(direction).detach()
                else:
                    state["momentum_buffer"].mul_(group["momentum"]).add_(direction)
                direction = state["momentum_buffer"]
            if isinstance(group["lr"], Tensor):
                p.sub_(direction * group["lr"].reshape(()))  # without reading the rate from the device
            else:
                p.add_(direction, alpha=-group["lr"])  # to the bit as torch.optim.SGD

    def _usable(self) -> bool:
        """Tell whether the step may go ahead; one number is read from the device for the whole model."""
        _refuse_sparse(self.param_groups)
        groups = [group for group in self.param_groups if group["nonfinite"] is not NonFinite.IGNORE]
        grads = [p.grad for group in groups for p in group["params"] if p.grad is not None]
        if not grads:
            return True
        # A norm is finite exactly if all entries are, up to overflow, which the slow path below sorts out.
        by_device: dict[torch.device, list[Tensor]] = {}
        for grad in grads:
            by_device.setdefault(grad.device, []).append(grad)
        if all(bool(torch.isfinite(torch.stack(torch._foreach_norm(part, 1)).sum())) for part in by_device.values()):  # noqa: SLF001
            return True
        bad = [(name, group["nonfinite"]) for group in groups for name in _nonfinite_names(group)]
        if any(policy is NonFinite.RAISE for _, policy in bad):
            raise NonFiniteGradientError(
                f"the gradient of {', '.join(name for name, _ in bad)} is not finite; no weight was touched. Lower the "
                "learning rate or look for the cause; nonfinite=NonFinite.SKIP leaves such steps out"
            )
        return not bad

    def diagnostics(self) -> list[GroupDiagnostics]:
        """Return gap, last step size, shrinkage so far, share of the initial weights left, and feasibility per point.

        Reads the current gradients, or the momentum where there is none, and synchronises with the device: call it
        when you want to know, not every step.
        """
        constrained = [group for group in self.param_groups if group["region"] is not None]
        return [diagnose(point) for group in constrained for point in self.points(group)]

    def total_shrinkage(self) -> float:
        """Return the sum of the step sizes so far, averaged over all constrained points."""
        return self._mean("shrinkage", 0.0)

    def kept_share(self) -> float:
        """Return the share of the initial weights that is left, prod(1 - alpha), averaged over constrained points."""
        return self._mean("kept", 1.0)

    def _mean(self, key: str, default: float) -> float:
        heads = [point.states[0] for g in self.param_groups if g["region"] is not None for point in self.points(g)]
        values = [state.get(key) for state in heads]
        return sum(default if v is None else float(v) for v in values) / len(values) if values else default

    def state_dict(self) -> dict[str, Any]:
        """Return the state as plain data and tensors, so that `torch.load(weights_only=True)` reads it back."""
        state = super().state_dict()
        return state | {"param_groups": [plain(group) for group in state["param_groups"]]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what `state_dict` returned.

        Raises:
            ValueError: if it is not the state of an SFW with as many groups and parameters.
        """
        groups = [live(group) for group in state_dict["param_groups"]]
        missing = {key for group in groups for key in OBJECTS if key not in group}
        if missing:
            raise ValueError(f"state_dict must be that of an SFW; its groups lack {', '.join(sorted(missing))}")
        super().load_state_dict({**state_dict, "param_groups": groups})


def _nonfinite_names(group: dict[str, Any]) -> list[str]:
    pairs = zip(names(group), group["params"], strict=True)
    return [name for name, p in pairs if p.grad is not None and not bool(torch.isfinite(p.grad).all())]


def _refuse_sparse(groups: list[dict[str, Any]]) -> None:
    pairs = [pair for group in groups for pair in zip(names(group), group["params"], strict=True)]
    sparse = [name for name, p in pairs if p.grad is not None and p.grad.layout is not torch.strided]
    if sparse:
        raise ValueError(
            f"the gradient of {', '.join(sparse)} must be dense, found a sparse one; no weight was touched. Build the "
            "embedding with sparse=False"
        )
