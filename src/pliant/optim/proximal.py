"""ProximalSGD: torch's SGD, with proximal maps of penalties after the step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol, overload, runtime_checkable

import torch
from torch import Tensor
from torch.optim import SGD
from torch.optim.optimizer import ParamsT

from pliant.optim.account import is_zero
from pliant.optim.agreement import agree_if_sharded
from pliant.optim.change import change_wholes
from pliant.optim.gradient import frozen_without_gradients, gradient_of
from pliant.optim.group import names
from pliant.optim.ranges import check_numbers
from pliant.regions.region import X, tensors
from pliant.regions.views import View
from pliant.sharding import is_sharded, whole
from pliant.spec import from_spec, to_spec


@runtime_checkable
class Regulariser(Protocol):
    """A function of one point (a weight, or several together) with a proximal map, such as `pliant.Penalty`.

    To travel in a state dict it is a frozen dataclass that `pliant.spec.register` knows.
    """

    @property
    def view(self) -> View:
        """How a point becomes magnitudes; its `arity` says how many tensors a point has."""

    def value(self, x: Any) -> Tensor:  # noqa: ANN401  (a Tensor, or a sequence of them)
        """Return the value, differentiable in x."""

    def prox(self, x: X, step: float | Tensor) -> X:
        """Return argmin_z 1/2 norm_2(z - x)^2 + step * value(z)."""


class ProximalSGD(SGD):
    """SGD on the loss, proximal maps on the regulariser: compression-aware training by penalties.

        w  <-  step of torch's SGD on the gradient of the loss
        w  <-  prox(w, lr) of every penalty of the group, one after the other       every `prox_every` steps

    with the group's learning rate of that moment. The maps leave exact zeros. One after the other they are the map of
    the sum where the penalties are nested, as single weights inside filters are, and a splitting of it otherwise: the
    order (filters, then rank) is that of `penalties`.

    A penalty that takes one tensor acts on every parameter of its group; one that takes several acts on the group's
    parameters, in order, together. A parameter without gradient is left alone, and does not count as stepped, nor does
    any in a step at which the rate is the number 0.

    Args:
        params: as for every torch optimizer. Groups say their `penalties`, a sequence of `pliant.Penalty`; groups that
            say nothing have none.
        lr: the learning rate, of the step and of the proximal maps.
        momentum: of the step, at least 0.
        dampening: of the momentum.
        weight_decay: at least 0; adds to the gradient, as torch has it.
        nesterov: whether the momentum is Nesterov's.
        penalties: of groups that do not say theirs.
        prox_every: steps from one proximal map to the next; None: only when `prox()` is called, such as at the end of
            every epoch of a loop of your own.

    Raises:
        ValueError: if a hyper-parameter is out of range, or the parameters of a group do not fit its penalties.

    Reference: Alvarez and Salzmann, "Compression-aware Training of Deep Networks" (2017), who apply the maps now and
    then rather than at every step; Parikh and Boyd, "Proximal Algorithms" (2014).
    """

    def __init__(
        self,
        params: ParamsT,
        *,
        lr: float | Tensor,
        momentum: float = 0.9,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        penalties: Sequence[Regulariser] = (),
        prox_every: int | None = 1,
    ) -> None:
        own = {"penalties": tuple(penalties), "prox_every": prox_every}
        options = {"momentum": momentum, "dampening": dampening, "weight_decay": weight_decay, "nesterov": nesterov}
        super().__init__(_groups(params, own), lr, **options)  # type: ignore[arg-type]
        self.defaults.update(own)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group; it may say its "penalties" and "prox_every"."""
        for key in _OWN:
            param_group.setdefault(key, self.defaults.get(key))
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        try:
            _check(group)
        except ValueError:
            self.param_groups.pop()
            raise
        group["penalties"] = tuple(group["penalties"])

    _agreed = False  # that all processes have the same groups

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Take one step, and the proximal maps where they are due.

        Args:
            closure: re-evaluates the model and returns the loss, as for every torch optimizer.

        Raises:
            ValueError: if the rate or the weight decay of a group is out of range, before any weight is touched.
        """
        for group in self.param_groups:
            check_numbers(group, ("lr", "weight_decay"))
        self._agreed = self._agreed or agree_if_sharded(self)
        with frozen_without_gradients(p for group in self.param_groups for p in group["params"]):
            loss = super().step(closure)
        for group in self.param_groups:
            if group["penalties"] and group["prox_every"] is not None:
                self._map(group, self._due(group))
        return loss

    @torch.no_grad()
    def prox(self) -> None:
        """Apply the proximal maps of all groups now, whether they are due or not, with the groups' rates of now."""
        for group in self.param_groups:
            self._map(group, _points(group))

    def penalty(self) -> Tensor:
        """Return the regulariser at the weights of now: the sum of all penalties; with the loss it is the objective."""
        values = [
            penalty.value(_whole(penalty, [whole(p) for p in point]))
            for group in self.param_groups
            for point in _points(group)
            for penalty in group["penalties"]
        ]
        return sum((value.to(values[0].device) for value in values[1:]), values[0]) if values else torch.zeros(())

    def _due(self, group: dict[str, Any]) -> list[list[Tensor]]:
        """Count a step of every point that took one, and return those whose maps are due."""
        moved = [point for point in _points(group) if all(gradient_of(p) is not None for p in point)]
        for point in moved:
            state = self.state[point[0]]
            state["steps"] = state.get("steps", 0) + (not is_zero(group["lr"]))
        return [point for point in moved if self.state[point[0]]["steps"] % group["prox_every"] == 0]

    def _map(self, group: dict[str, Any], points: list[list[Tensor]]) -> None:
        rate = group["lr"]
        if is_zero(rate):
            return
        if any(is_sharded(p) for point in points for p in point):
            for penalty in group["penalties"]:
                change_wholes(points, partial(_mapped, penalty, rate))
            return
        for point in points:
            here = rate.to(point[0].device).reshape(()) if isinstance(rate, Tensor) else rate
            for penalty in group["penalties"]:
                _replace(point, tensors(penalty.prox(_whole(penalty, point), here)), here)

    def state_dict(self) -> dict[str, Any]:
        """Return the state as plain data and tensors, so that `torch.load(weights_only=True)` reads it back."""
        state = super().state_dict()
        groups = [group | {"penalties": [to_spec(p) for p in group["penalties"]]} for group in state["param_groups"]]
        return state | {"param_groups": groups}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what `state_dict` returned.

        Raises:
            ValueError: if it is not the state of a ProximalSGD with as many groups and parameters.
        """
        if any("penalties" not in group for group in state_dict["param_groups"]):
            raise ValueError("state_dict must be that of a ProximalSGD; its groups lack penalties")
        groups = [group | {"penalties": from_spec(group["penalties"])} for group in state_dict["param_groups"]]
        super().load_state_dict({**state_dict, "param_groups": groups})


_OWN = ("penalties", "prox_every")


def _groups(params: ParamsT, own: dict[str, Any]) -> ParamsT:
    """Return parameters as groups that have the options of this optimizer."""
    if isinstance(params, Tensor):
        return params  # for torch to refuse
    given: list[Any] = list(params)
    groups = given if given and isinstance(given[0], dict) else [{"params": given}]
    return [own | group for group in groups]


def _check(group: dict[str, Any]) -> None:
    every, penalties = group["prox_every"], group["penalties"]
    if every is not None and not (isinstance(every, int) and every >= 1):
        raise ValueError(f"prox_every must be a number of steps, at least 1, or None, found {every!r}")
    for penalty in penalties:
        if not isinstance(penalty, Regulariser):
            raise ValueError(
                f"penalties must hold objects with view, value and prox, such as Penalty, found {penalty!r}"
            )
    if len({penalty.view.arity for penalty in penalties}) > 1:
        raise ValueError(f"the penalties of a group must take equally many tensors, found {penalties!r}")
    try:
        to_spec(tuple(penalties))
    except TypeError as error:
        raise ValueError(f"penalties must fit into a state_dict: {error}") from error
    if penalties:
        _check_shapes(group, penalties)


def _check_shapes(group: dict[str, Any], penalties: Sequence[Regulariser]) -> None:
    arity, count = penalties[0].view.arity, len(group["params"])
    if count % arity:
        raise ValueError(f"the penalties take {arity} tensors together, but the group has {count}: {names(group)}")
    for point, penalty in ((point, penalty) for point in _points(group) for penalty in penalties):
        penalty.view.count(*[p.shape for p in point])  # raises if the view cannot read such shapes


def _points(group: dict[str, Any]) -> list[list[Tensor]]:
    """Return the points of a group; without penalties there is none."""
    params: list[Tensor] = group["params"]
    arity = group["penalties"][0].view.arity if group["penalties"] else len(params) + 1
    return [params[start : start + arity] for start in range(0, len(params) - arity + 1, arity)]


def _whole(penalty: Regulariser, point: list[Tensor]) -> Any:  # noqa: ANN401  (Tensor or sequence, as the view takes it)
    return point[0] if penalty.view.arity == 1 else point


def _mapped(penalty: Regulariser, rate: float | Tensor, _: int, point: list[Tensor]) -> list[Tensor]:
    here = rate.to(point[0].device).reshape(()) if isinstance(rate, Tensor) else rate
    new = [p.clone() for p in point]
    _replace(new, tensors(penalty.prox(_whole(penalty, point), here)), here)
    return new


def _replace(point: list[Tensor], new: Sequence[Tensor], rate: float | Tensor) -> None:
    for p, value in zip(point, new, strict=True):
        # At a rate of 0 nothing moves, not even by the rounding of a decomposition.
        p.copy_(torch.where(rate > 0, value, p) if isinstance(rate, Tensor) else value)
