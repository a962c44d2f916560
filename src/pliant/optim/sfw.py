"""SFW: Stochastic Frank-Wolfe with momentum as a torch optimizer; one parameter group is one region."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, overload

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import ParamsT

from pliant.optim.account import record
from pliant.optim.agreement import agree_over, describe
from pliant.optim.batch import Batch, batches
from pliant.optim.channels import ChannelBatch, apart
from pliant.optim.diagnostics import GroupDiagnostics, diagnose
from pliant.optim.finite import NonFinite, NonFiniteGradientError, all_finite
from pliant.optim.free import free_step
from pliant.optim.gradient import gradient_of
from pliant.optim.group import LAYOUT, NUMBERS, OBJECTS, REQUIRED, check_group, live, names, plain, points_of
from pliant.optim.notices import count_down, tell_of_infeasible, tell_of_no_gradient
from pliant.optim.point import Point
from pliant.optim.precision import HALF, Master, Precision
from pliant.optim.ranges import check_numbers
from pliant.optim.saved import keep_forms
from pliant.optim.sharded import ShardedBatch, free_step_of_part, sharded_batches
from pliant.optim.steps import GradientScaled, StepRule
from pliant.sharding import is_sharded
from pliant.structure.plan import Plan

Part = Batch | ChannelBatch | ShardedBatch


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
        precision: how weights of 16 bits take small steps; others ignore it.
        exact: whether oracles are exact. By default those of singular values and of single entries of large tensors are
            nearly optimal, feasible and many times faster; what they remember is part of the state.
        foreach: whether points of one kind and shape take the step together. None: small ones do, and large weights of
            all shapes share what is done with the norms of their filters.

    Raises:
        ValueError: if a hyper-parameter is out of range, a group has no region, the number of parameters does not fit
            the region, or a parameter is sparse, complex or of less than 16 bits.

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
        precision: Precision | None = None,
        exact: bool = False,
        foreach: bool | None = None,
    ) -> None:
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "dampening": dampening,
            "weight_decay": weight_decay,
            "step_rule": GradientScaled() if step_rule is None else step_rule,
            "nonfinite": nonfinite,
            "precision": Master() if precision is None else precision,
            "exact": exact,
            "foreach": foreach,
        }
        super().__init__(params.param_groups() if isinstance(params, Plan) else params, defaults)
        self._plan = params if isinstance(params, Plan) else None

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group; it must say its "region" (a `Region`, or None for a free group)."""
        super().add_param_group(param_group)
        try:
            check_group(self.param_groups[-1])
        except ValueError:
            self.param_groups.pop()
            raise

    _plan: Plan | None = None  # until the first step
    # What the batches were made from, and the batches.
    _layout: tuple[list[tuple[Any, ...]], list[Part]] = ([], [])

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
            ValueError: if a gradient is sparse, or a number of a group is out of range, likewise.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            check_numbers(group, NUMBERS)
        _refuse_sparse(self.param_groups)
        parts = self._batches()
        grads = [part.gradients() for part in parts]
        usable = self._usable()
        self._count(parts)
        steps = [part.step(grad, usable) for part, grad in zip(parts, grads, strict=True)]
        points = [point for part in parts for point in part.points]
        if points:
            rates = [point.group["lr"] for point in points]
            record([p.states[0] for p in points], [alpha for part in steps for alpha in part], rates, usable)
        for group in self.param_groups:
            for p in group["params"] if group["region"] is None else ():
                (free_step_of_part if is_sharded(p) else free_step)(p, self.state[p], group, usable)
        return loss

    _left: float | None = None  # steps before all points stand still; None: not known

    def _count(self, parts: list[Part]) -> None:
        points = [point for part in parts for point in part.points]
        if points and not torch.compiler.is_compiling():  # a compiled step would be compiled anew for every count
            self._left = count_down(self._left, points)

    def _batches(self) -> list[Part]:
        """Return the points that have a gradient as batches: last step's, where nothing that matters has changed."""
        constrained = [group for group in self.param_groups if group["region"] is not None]
        now = [self._fingerprint(group) for group in constrained]
        if self._layout[0] != now:
            first = not self._layout[0]
            self._layout = (now, self._new_batches(constrained))
            if first:
                self._look_at_the_start(self._layout[1])
        return self._layout[1]

    def _look_at_the_start(self, parts: list[Part]) -> None:
        if not parts:
            tell_of_no_gradient()
        if self._plan is not None and not self._plan.made_feasible:  # else not again: norms of spectra take a while
            tell_of_infeasible(self.param_groups)
        self._plan = None

    def _new_batches(self, groups: list[dict[str, Any]]) -> list[Part]:
        points = [point for group in groups for point in self.points(group)]
        spread = [point for point in points if any(map(is_sharded, point.params))]
        if spread:
            agree_over(spread[0].params, describe(self.param_groups))
        out = set(map(id, spread))
        by_channels, together = apart(point for point in points if id(point) not in out)
        return [
            *by_channels,
            *(
                part
                for choice in (None, True, False)
                for part in batches((point for point in together if point.group["foreach"] is choice), merge=choice)
            ),
            *sharded_batches(spread),
        ]

    def _fingerprint(self, group: dict[str, Any]) -> tuple[Any, ...]:
        """Return what decides about the batches; the objects behind the numbers are kept alive by the batches."""
        options = [id(value) if key in OBJECTS else value for key, value in group.items() if key in LAYOUT]
        grads = [(p, gradient_of(p)) for p in group["params"]]
        forms = [(id(p), id(self.state[p]), None if grad is None else grad.dtype) for p, grad in grads]
        return (id(group), *options, *forms)

    def points(self, group: dict[str, Any]) -> Iterator[Point]:
        """Yield the points of a constrained group."""
        for labels, params in points_of(group):
            yield Point(group["region"], labels, params, [self.state[p] for p in params], group)

    def _usable(self) -> Tensor | None:
        """Return None if the step counts, or a boolean tensor where that is decided on the device.

        Raises:
            NonFiniteGradientError: if a group that must raise has a gradient that is not finite.
        """
        loud, silent = (
            all_finite([grad for g in self.param_groups if g["nonfinite"] is kind for _, grad in _gradients(g)])
            for kind in (NonFinite.RAISE, NonFinite.SKIP)
        )
        if not all(map(bool, loud)):
            bad = [n for g in self.param_groups if g["nonfinite"] is not NonFinite.IGNORE for n in _nonfinite_names(g)]
            raise NonFiniteGradientError(
                f"the gradient of {', '.join(bad)} is not finite; no weight was touched. Lower the learning rate or "
                "look for the cause; nonfinite=NonFinite.SKIP leaves such steps out"
            )
        if not silent:
            return None
        return torch.stack([flag.to(silent[0].device, non_blocking=True) for flag in silent]).all()

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
        missing = {key for group in groups for key in REQUIRED if key not in group}
        if missing:
            raise ValueError(f"state_dict must be that of an SFW; its groups lack {', '.join(sorted(missing))}")
        self._left = None
        added = {key: self.defaults[key] for key in ("precision", "exact", "foreach")}
        super().load_state_dict({**state_dict, "param_groups": [added | group for group in groups]})
        numbers = [number for group in groups for number in group["params"]]
        params = [p for group in self.param_groups for p in group["params"]]
        for number, p in zip(numbers, params, strict=True):
            if number in state_dict["state"]:
                keep_forms(self.state[p], state_dict["state"][number], half=p.dtype in HALF)


def _nonfinite_names(group: dict[str, Any]) -> list[str]:
    return [name for name, grad in _gradients(group) if not all(map(bool, all_finite([grad])))]


def _gradients(group: dict[str, Any]) -> Iterator[tuple[str, Tensor]]:
    """Yield the name and the gradient of every parameter of a group that moves."""
    for name, p in zip(names(group), group["params"], strict=True):
        grad = gradient_of(p)
        if grad is not None:
            yield name, grad


def _refuse_sparse(groups: list[dict[str, Any]]) -> None:
    sparse = [name for g in groups for name, grad in _gradients(g) if grad.layout is not torch.strided]
    if sparse:
        raise ValueError(
            f"the gradient of {', '.join(sparse)} must be dense, found a sparse one; no weight was touched. Build the "
            "embedding with sparse=False"
        )
