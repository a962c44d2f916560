"""RandomCut: gradients at the model cut at a random fraction, so that one checkpoint serves all of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from itertools import product
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from pliant.methods.draws import check_fractions, drawn
from pliant.methods.operators import Operator
from pliant.methods.outer import Outer, kept_aside, refuse_sharded
from pliant.optim.agreement import settings_of


class RandomCut(Outer):
    """Any optimizer, given in every step the gradient of the model cut at a random fraction; one evaluation a step.

    With the compression C of the step,

        g  =  what belongs to the kept atoms of the gradient at C(w)
        w  <- inner step from w with g

    Atoms are ranked by the compressor's own score as the weights are now, and those that most cuts keep get most of the
    gradients: the ranking settles, and the cuts are nested. Fraction 0 is an ordinary step. Where the inner optimizer
    is `SFW`, atoms without a gradient get no vertex and fade.

    Around an evaluation at a cut, parameters and buffers of the model are kept aside and put back, so that running
    statistics of norm layers see the whole model alone, in the steps of fraction 0; what is cut wants recalibration.

    Args:
        inner: any optimizer over the model's parameters that takes its step from the gradients that are there.
        model: the model that the closure evaluates.
        operators: the compressions, `operator_of(compressor, model, example)`; several make one checkpoint for several
            kinds of cuts.
        fractions: of the atoms that are removed; an operator and a fraction are drawn in every step, each with the same
            probability.
        seed: of the draws.

    Raises:
        ValueError: if there is no operator or no fraction, a fraction is not in [0, 1), or parameters of the model
            are sharded.

    Reference: nested dropout (Rippel, Gelbart, Adams 2014) and ordered dropout in FjORD (Horvath et al. 2021) drop the
    last units of a fixed order; here the order is the compressor's.
    """

    parts: ClassVar = ("inner", "model", "operators", "fractions", "seed", "taken")
    model: nn.Module
    operators: tuple[Operator, ...]
    fractions: tuple[float, ...]
    seed: int
    taken: int

    def __init__(
        self,
        inner: Optimizer,
        model: nn.Module,
        operators: Sequence[Operator],
        fractions: tuple[float, ...],
        *,
        seed: int = 0,
    ) -> None:
        refuse_sharded(model)
        check_fractions(fractions)
        if not operators:
            raise ValueError("operators must be at least one, found none")
        parts = {"operators": tuple(operators), "fractions": fractions, "seed": seed, "taken": 0}
        super().__init__(inner=inner, model=model, **parts)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float:  # type: ignore[override]
        """Take one step.

        Args:
            closure: clears the gradients, evaluates the model, sets the gradients and returns the loss; called once.

        Returns:
            The loss of the model as it was cut.

        Raises:
            ValueError: without a closure.
        """
        if closure is None:
            raise ValueError(
                "RandomCut cuts the model before its gradient is taken: call step(closure) with a closure that clears "
                "the gradients, evaluates the model, calls backward and returns the loss"
            )
        operator, fraction = drawn(list(product(self.operators, self.fractions)), self.seed, self.taken)
        with kept_aside(self.model, self._params()) if fraction else nullcontext():
            gates = operator.compress(fraction) if fraction else {}
            with torch.enable_grad():
                loss = closure()
        found = [(p, p.grad) for p in self._params() if p.grad is not None]
        for p, grad in found:
            p.grad = gates[p](grad) if p in gates else grad
        self.inner.step()
        for p, grad in found:
            p.grad = grad
        self.taken += bool(found)
        return loss

    def _params(self) -> list[Tensor]:
        return [p for group in self.param_groups for p in group["params"]]

    def settings(self) -> list[str]:
        """Return what is cut how, which must be alike on all processes."""
        return [f"RandomCut(fractions={self.fractions}, seed={self.seed})", *settings_of(self.inner)]

    def state_dict(self) -> dict[str, Any]:
        """Return the inner optimizer's state and the number of steps."""
        return self.inner.state_dict() | {"random_cut": {"taken": self.taken}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what `state_dict` returned.

        Raises:
            ValueError: if it is not the state of a RandomCut.
        """
        if "random_cut" not in state_dict:
            raise ValueError(f"state_dict must be that of a RandomCut, found one with {', '.join(state_dict)}")
        self.inner.load_state_dict({key: value for key, value in state_dict.items() if key != "random_cut"})
        self.taken = state_dict["random_cut"]["taken"]
        self.share()
