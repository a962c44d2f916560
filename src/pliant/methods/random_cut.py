"""RandomCut: gradients at the model cut at a random fraction, so that one checkpoint serves all of them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from pliant.compress.calibrate import has_statistics
from pliant.methods.at_cuts import AtCuts, Copies, cut_in_place, exchange, put_back
from pliant.methods.draws import check_fractions, drawn
from pliant.methods.operators import Gate, Operator
from pliant.optim.agreement import settings_of


@dataclass
class _Begun:
    """A step that was begun.

    Args:
        fraction: of the atoms that it removes.
        gates: parameter -> what of its gradient counts.
        aside: parameters and buffers with copies of what is to be put back or, in a pause, of the cut.
        paused: whether the model is whole for a while.
    """

    fraction: float
    gates: Mapping[Tensor, Gate]
    aside: Copies
    paused: bool = False

    def turn(self, *, paused: bool) -> None:
        """Exchange the cut model and the whole one."""
        exchange(self.aside)
        self.paused = paused


class _Cutting:
    """The step that was begun, if any: one object for an optimizer and whatever wraps it."""

    def __init__(self) -> None:
        self.step: _Begun | None = None


class RandomCut(AtCuts):
    """Any optimizer, given in every step the gradient of the model cut at a random fraction; one evaluation a step.

    With the compression C of the step,

        g  =  what belongs to the kept atoms of the gradient at C(w)
        w  <- inner step from w with g

    Atoms are ranked by the compressor's own score as the weights are now, and those that most cuts keep get most of the
    gradients: the ranking settles, and the cuts are nested. Fraction 0 is an ordinary step. Where the inner optimizer
    is `SFW`, atoms without a gradient get no vertex and fade.

    Around an evaluation at a cut, parameters and buffers of the model are kept aside and put back, so that running
    statistics of norm layers see the whole model alone, in the steps of fraction 0; what is cut wants recalibration,
    and so does the whole model if no fraction is 0, of which a warning tells.

    Loops that hand no closure to the optimizer call `begin` before the forward pass; everything else stays as it is:

        optimizer.begin()
        loss(model(x), y).backward()      # accumulated over several batches, clipped, as you like
        optimizer.step()
        optimizer.zero_grad()

    Args:
        inner: any optimizer over the model's parameters that takes its step from the gradients that are there.
        model: the model that the closure evaluates.
        operators: the compressions, `operator_of(compressor, model, example)`; several make one checkpoint for several
            kinds of cuts.
        fractions: of the atoms that are removed; an operator and a fraction are drawn in every step, each with the same
            probability.
        seed: of the draws.
        start: steps before the first cut: so many are ordinary ones.

    Raises:
        ValueError: if there is no operator or no fraction, a fraction is not in [0, 1), `start` is negative, or
            parameters of the model are sharded.

    Reference: nested dropout (Rippel, Gelbart, Adams 2014) and ordered dropout in FjORD (Horvath et al. 2021) drop the
    last units of a fixed order; here the order is the compressor's.
    """

    key: ClassVar = "random_cut"
    protocol: ClassVar = (
        "RandomCut cuts the model before its gradient is taken: call begin() before the forward pass, or step(closure) "
        "with a closure that clears the gradients, evaluates the model, calls backward and returns the loss"
    )
    parts: ClassVar = ("inner", "model", "operators", "fractions", "seed", "start")
    operators: tuple[Operator, ...]
    fractions: tuple[float, ...]
    seed: int
    start: int

    def __init__(
        self,
        inner: Optimizer,
        model: nn.Module,
        operators: Sequence[Operator],
        fractions: tuple[float, ...],
        *,
        seed: int = 0,
        start: int = 0,
    ) -> None:
        check_fractions(fractions)
        if not operators:
            raise ValueError("operators must be at least one, found none")
        if isinstance(start, bool) or not isinstance(start, int) or start < 0:
            raise ValueError(f"start must be a number of steps, at least 0, found {start!r}")
        parts = {"operators": tuple(operators), "fractions": fractions, "seed": seed, "start": start}
        super().__init__(inner=inner, model=model, **parts)
        if 0.0 not in fractions:
            _warn_of_statistics(model)

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._cutting = _Cutting()
        super().__setstate__(state)

    @torch.no_grad()
    def begin(self) -> float:
        """Cut the weights for the passes that the next `step()` takes its gradients from, in loops without closures.

        Until then the model *is* the cut one, buffers included; `step` and `restore` put everything back. Evaluate and
        save outside or after `pause`, and call `restore` where a pass has failed or a gradient scaler has skipped the
        step. What an earlier call has cut is put back first; what was paused goes on.

        Returns:
            The fraction of the atoms that is removed.
        """
        if self._cutting.step is not None and self._cutting.step.paused:
            self._cutting.step.turn(paused=False)
            return self._cutting.step.fraction
        self.restore()
        operator, fraction = self._drawn()
        aside = self.copies() if fraction else ()
        try:
            self._cutting.step = _Begun(fraction, cut_in_place(operator, fraction) if fraction else {}, aside)
        except BaseException:
            put_back(aside)
            raise
        return fraction

    @property
    def begun(self) -> bool:
        """Whether `begin` was called, and neither `step` nor `restore` nor `pause` since."""
        return self._cutting.step is not None and not self._cutting.step.paused

    @torch.no_grad()
    def pause(self) -> None:
        """Make the model whole between two passes of one step, to evaluate or save it; do nothing where nothing is cut.

        `begin` goes on with the same cut, at the cost of copying the weights.
        """
        if self._cutting.step is not None and not self._cutting.step.paused:
            self._cutting.step.turn(paused=True)

    def restore(self) -> None:
        """Put back what `begin` has cut, without a step; do nothing where nothing is cut."""
        if self._cutting.step is not None and not self._cutting.step.paused:
            put_back(self._cutting.step.aside)
        self._cutting.step = None

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Take one step.

        Args:
            closure: clears the gradients, evaluates the model, sets the gradients and returns the loss; called once, at
                the cut that `begin` has made, or at a new one. None: `begin` was called, and the gradients are there.

        Returns:
            The loss of the model as it was cut; None without a closure.

        Raises:
            ValueError: without a closure and without `begin`; without `begin` also if the closure evaluates nothing or
                does not clear the gradients.
        """
        if closure is None and self._cutting.step is None and self.makes_state():
            self.inner.step()
            return None
        loss = None if closure is None else self._loss_at_the_cut(closure)
        if self._cutting.step is None:
            raise ValueError(self.protocol)
        gates = self._cutting.step.gates
        self.restore()
        found = [(p, p.grad) for p in self.params() if p.grad is not None]
        try:
            for p, grad in found:
                p.grad = gates[p](grad) if p in gates else grad
            self.inner.step()
        finally:
            for p, grad in found:
                p.grad = grad
        self._count(self.taken + bool(found))
        return loss

    def _loss_at_the_cut(self, closure: Callable[[], float]) -> float | None:
        going_on = self._cutting.step is not None  # gradients that are there belong to this step
        if not self.begun:
            self.begin()
        try:
            if not going_on:
                return self.evaluated(closure)
            with torch.enable_grad():
                return closure()
        except BaseException:
            self.restore()
            raise

    def __getstate__(self) -> dict[str, Any]:
        self._check_whole()
        return super().__getstate__()

    def packed(self) -> dict[str, Any]:
        """Return the inner optimizer's state and the number of steps.

        Raises:
            RuntimeError: between `begin` and `step`.
        """
        self._check_whole()
        return super().packed()

    def unpack(self, state: dict[str, Any]) -> None:
        """Take over what `packed` returned, after the model's; a cut that is still made is forgotten, not put back.

        Raises:
            ValueError: if it is not the state of a `RandomCut`.
        """
        super().unpack(state)
        self._cutting.step = None

    def settings(self) -> list[str]:
        """Return what is cut how, which must be alike on all processes."""
        own = f"RandomCut(fractions={self.fractions}, seed={self.seed}, start={self.start})"
        return [own, *settings_of(self.inner)]

    def _check_whole(self) -> None:
        if self.begun:
            raise RuntimeError(
                "between begin() and step() the model is the cut one, and a copy or checkpoint would lose what is set "
                "aside: call step(), pause() or restore() first"
            )

    def _drawn(self) -> tuple[Operator, float]:
        """Return what this step cuts and how much."""
        if self.taken < self.start:
            return self.operators[0], 0.0
        return drawn(list(product(self.operators, self.fractions)), self.seed, self.taken)


def _warn_of_statistics(model: nn.Module) -> None:
    norms = [name for name, module in model.named_modules() if has_statistics(module)]
    if norms:
        others = f" and {len(norms) - 1} more norm layers" if len(norms) > 1 else ""
        warnings.warn(
            "no fraction is 0, and running statistics see the whole model alone: cut in every step, those of "
            f"{norms[0]!r}{others} are never updated. Add 0.0 to the fractions, or recalibrate the model "
            "(recalibrate_batchnorm) before it is evaluated, whole or cut",
            stacklevel=3,
        )
