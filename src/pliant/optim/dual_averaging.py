"""DualAveraging: the regularised optimizer that finds the zero pattern and keeps it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, cast, overload

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import ParamsT

from pliant.optim.account import is_zero
from pliant.optim.adaptive import Adaptive
from pliant.optim.agreement import agree_if_sharded
from pliant.optim.change import change_wholes
from pliant.optim.gradient import gradient_of
from pliant.optim.group import names
from pliant.optim.precision import HALF
from pliant.optim.proximal import Regulariser
from pliant.optim.ranges import check_kinds, check_numbers
from pliant.sharding import is_sharded, local, local_grad
from pliant.spec import from_spec, to_spec


class DualAveraging(Optimizer):
    """Regularised dual averaging with momentum (RMDA); with `adaptive` in a diagonal metric (RAMDA).

    In step t of a stage, with gradient g_t (weight_decay * W_{t-1} added), learning rate lr_t and penalty psi:

        G_t  =  G_{t-1} + lr_t sqrt(t) g_t              a_t  =  a_{t-1} + lr_t sqrt(t)
        Z_t  =  prox of (a_t / sqrt(t)) psi  at  W_0 - G_t / sqrt(t)
        W_t  =  momentum * W_{t-1} + (1 - momentum) * Z_t

    The weighted average of all gradients has a vanishing variance, so that after finitely many steps the zeros of Z are
    those of the optimum: proximal SGD keeps undoing them, since the noise of its gradients does not fall. Where an
    entry of Z is zero and that of W has come down to rounding level of the tensor's largest, it becomes exactly zero.

    A step at which the rate is the number 0 adds nothing to the sums, and does not count.

    Several penalties of a group are mapped one after the other, which is the map of their sum where they are nested.

    Args:
        params: as for every torch optimizer; groups may say their `penalties`, which take one tensor each.
        lr: learning rate.
        momentum: share of the old weights, in [0, 1); published: 0.9 and 0.99 (there written 1 - c).
        weight_decay: of the squared norm, at least 0; adds to the gradient.
        penalties: of groups that do not say theirs.
        restart_every: steps of a stage, after which G and a start anew at 0 and W_0 at the weights of then; None: one
            stage. Published at every drop of the learning rate.
        adaptive: the metric; None: the Euclidean one.
        settle_after: step from which momentum fades, c_i = min(1, c sqrt(1 + i)) after i more steps, so that W becomes
            Z, zeros included; None: never.

    Raises:
        ValueError: if a hyper-parameter is out of range, a weight has 16 bits, or a penalty cannot read it.

    Reference: Huang and Lee, "Training structured neural networks through manifold identification and variance
    reduction" (2022), algorithm 1; Xiao, "Dual averaging methods for regularized stochastic learning" (2010).
    """

    def __init__(
        self,
        params: ParamsT,
        *,
        lr: float | Tensor,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        penalties: Sequence[Regulariser] = (),
        restart_every: int | None = None,
        settle_after: int | None = None,
        adaptive: Adaptive | None = None,
    ) -> None:
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "weight_decay": weight_decay,
            "penalties": tuple(penalties),
            "restart_every": restart_every,
            "settle_after": settle_after,
            "adaptive": adaptive,
        }
        super().__init__(params, defaults)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group; it may say its "penalties" and its other options."""
        super().add_param_group(param_group)
        try:
            _check(self.param_groups[-1])
        except ValueError:
            self.param_groups.pop()
            raise

    _agreed = False  # that all processes have the same groups

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
            ValueError: if a rate or another number of a group is out of range, before any weight is touched.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            check_numbers(group, _NUMBERS)
        self._agreed = self._agreed or agree_if_sharded(self)
        for group in self.param_groups:
            moving = [p for p in group["params"] if gradient_of(p) is not None]
            for p in moving:
                _sum_up(p, self.state[p], group)
            _move(moving, [self.state[p] for p in moving], group)
        return loss

    def state_dict(self) -> dict[str, Any]:
        """Return the state as plain data and tensors, so that `torch.load(weights_only=True)` reads it back."""
        state = super().state_dict()
        groups = [group | {key: to_spec(group[key]) for key in _OBJECTS} for group in state["param_groups"]]
        return state | {"param_groups": groups}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what `state_dict` returned.

        Raises:
            ValueError: if it is not the state of a DualAveraging with as many groups and parameters.
        """
        if any("settle_after" not in group for group in state_dict["param_groups"]):
            raise ValueError("state_dict must be that of a DualAveraging; its groups lack settle_after")
        groups = [group | {key: from_spec(group[key]) for key in _OBJECTS} for group in state_dict["param_groups"]]
        super().load_state_dict({**state_dict, "param_groups": groups})


_NUMBERS = ("lr", "momentum", "weight_decay")
_OBJECTS = ("penalties", "adaptive")
_SUMS = ("anchor", "total", "squares")  # tensors of the state, laid out as the weight is


def _sum_up(p: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
    """Add a gradient to the sums; of sharded weights every process adds its part."""
    if not state or (group["restart_every"] and state["stage"] >= group["restart_every"]):
        _start_stage(p, state, group)
    if is_zero(group["lr"]):
        return
    state["step"] += 1
    state["stage"] += 1
    grad, here = cast("Tensor", local_grad(p)), local(p)
    lr = group["lr"].to(here).reshape(()) if isinstance(group["lr"], Tensor) else group["lr"]
    rate = lr * math.sqrt(state["stage"])
    direction = grad.add(here, alpha=group["weight_decay"]) if group["weight_decay"] else grad
    state["weight"] = state["weight"] + rate
    local(state["total"]).add_(rate * direction)
    if group["adaptive"] is not None:
        local(state["squares"]).add_(rate * direction.square())


def _move(params: Sequence[Tensor], states: Sequence[dict[str, Any]], group: dict[str, Any]) -> None:
    """Set weights to those after the step, which depend on the whole of each."""
    if not any(map(is_sharded, params)):
        for p, state in zip(params, states, strict=True):
            p.copy_(_moved(p, state, group))
        return
    keys = [[key for key in _SUMS if key in state] for state in states]

    def work(n: int, tensors: list[Tensor]) -> list[Tensor]:
        return [_moved(tensors[0], states[n] | dict(zip(keys[n], tensors[1:], strict=True)), group)]

    seen = [[state[key] for key in own] for state, own in zip(states, keys, strict=True)]
    change_wholes([[p] for p in params], work, seen=seen)


def _moved(p: Tensor, state: dict[str, Any], group: dict[str, Any]) -> Tensor:
    """Return W_t."""
    found = _proximal_point(p, state, group)
    return _settled(torch.lerp(found, p, _momentum(state["step"], group)), found)


def _start_stage(p: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
    fresh = {"stage": 0, "weight": 0.0, "anchor": p.detach().clone(), "total": torch.zeros_like(p)}
    if group["adaptive"] is not None:
        fresh["squares"] = torch.zeros_like(p)
    state.update({"step": 0} | state | fresh)


def _proximal_point(p: Tensor, state: dict[str, Any], group: dict[str, Any]) -> Tensor:
    """Return Z."""
    root, weight, anchor = math.sqrt(state["stage"]), state["weight"], state["anchor"]
    if not isinstance(weight, Tensor) and weight == 0.0:
        return anchor
    if group["adaptive"] is None:
        found = anchor - state["total"] / root
        for penalty in group["penalties"]:
            found = penalty.prox(found, weight / root)
    else:
        found = group["adaptive"].solve(state, p, group["penalties"])
    # At a rate of 0 nothing moves, not even by the rounding of a decomposition.
    return torch.where(weight > 0, found, anchor) if isinstance(weight, Tensor) else found


def _momentum(step: int, group: dict[str, Any]) -> float:
    after = group["settle_after"]
    if after is None or step <= after:
        return float(group["momentum"])
    return max(0.0, 1.0 - (1.0 - group["momentum"]) * math.sqrt(1.0 + step - after))


def _settled(w: Tensor, found: Tensor) -> Tensor:
    """Return the weights, zero where the map's result is and they are rounding of the largest."""
    if not w.numel():
        return w
    small = w.abs() <= torch.finfo(w.dtype).eps * w.abs().amax()
    return torch.where((found == 0) & small, 0.0, w)


def _check(group: dict[str, Any]) -> None:
    check_kinds(group, _NUMBERS)
    _check_steps(group)
    if not isinstance(group["adaptive"], Adaptive | None):
        raise ValueError(f"adaptive must be an Adaptive or None, found {group['adaptive']!r}")
    for penalty in group["penalties"]:
        if not isinstance(penalty, Regulariser) or penalty.view.arity != 1:
            raise ValueError(f"penalties must hold penalties of one tensor, such as Penalty, found {penalty!r}")
    for name, p in zip(names(group), group["params"], strict=True):
        if p.dtype in HALF or not p.is_floating_point():
            raise ValueError(f"{name} is {p.dtype}; sums of gradients need float32 or float64, train under autocast")
        for penalty in group["penalties"]:
            penalty.view.count(p.shape)  # raises if the view cannot read such a shape
    try:
        to_spec(tuple(group["penalties"]))
    except TypeError as error:
        raise ValueError(f"penalties must fit into a state_dict: {error}") from error


def _check_steps(group: dict[str, Any]) -> None:
    for key, low in (("restart_every", 1), ("settle_after", 0)):
        value = group[key]
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < low):
            raise ValueError(f"{key} must be a number of steps of at least {low}, or None, found {value!r}")
