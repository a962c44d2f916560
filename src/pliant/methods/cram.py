"""CrAM: the gradient is taken where the compressed model is, so that the trained model bears compression."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from pliant.methods.at_cuts import AtCuts, cut_in_place
from pliant.methods.draws import check_fractions, drawn
from pliant.methods.operators import Operator
from pliant.optim.agreement import settings_of


@dataclass(frozen=True)
class Cramming:
    """How CrAM perturbs, compresses and mixes.

    Args:
        fractions: of the atoms that are removed; one of them is drawn in every step, each with the same probability.
            One fraction is fixed CrAM, several "Multi".
        ascent: length of the step uphill before the compression, at least 0; 0.05 as published.
        normalised: whether that length is in units of the gradient's norm, as in sharpness-aware minimisation; as
            published it is a factor on the gradient itself.
        share: of the compressed model's gradient in what the optimizer gets, in [0, 1]: 1/2 is CrAM+, 1 plain CrAM.
        seed: of the draws.

    Raises:
        ValueError: if a number is out of its range.
    """

    fractions: tuple[float, ...]
    ascent: float = 0.05
    normalised: bool = False
    share: float = 0.5
    seed: int = 0

    def __post_init__(self) -> None:
        check_fractions(self.fractions)
        if not 0.0 <= self.ascent < math.inf:
            raise ValueError(f"ascent must be at least 0 and finite, found {self.ascent!r}")
        if not 0.0 <= self.share <= 1.0:
            raise ValueError(f"share must be in [0, 1], found {self.share!r}")

    def fraction(self, step: int) -> float:
        """Return the fraction of a step: it depends on nothing but the seed and the step's number."""
        return drawn(self.fractions, self.seed, step)


class CrAM(AtCuts):
    """Compression-aware minimiser around any optimizer, with any compressor; two gradient evaluations a step.

    With the gradient g at the weights w and the compression C of the step's fraction,

        w~  =  C(w + ascent * g)
        g~  =  what belongs to the kept atoms of the gradient at w~
        w   <- inner step from w with  (1 - share) * g + share * g~

    For filters and entries the kept atoms are a mask; for a rank the gradient is projected onto the tangent space of
    the matrices of that rank. With share 1/2 this is CrAM+, whose published form adds both gradients: the same steps
    at half the learning rate and twice the weight decay. As a mean it keeps the learning rate of the inner optimizer,
    and is that optimizer to the bit where both strengths are 0.

    The first evaluation is an ordinary one. Around the second all parameters and buffers of the model are kept aside
    and put back, so that running statistics of norm layers see the dense model alone; that takes one more copy of them.
    Dropout draws anew in it. Gradient scaling does not take closures; bfloat16 needs none.

    Args:
        inner: any optimizer over the model's parameters that takes its step from the gradients that are there.
        model: the model that the closure evaluates.
        operator: the compression, `operator_of(compressor, model, example)`.
        cramming: how strong.

    Raises:
        ValueError: if parameters of the model are sharded.

    Reference: Peste, Vladu, Kurtic, Lampert, Alistarh, "CrAM: A Compression-Aware Minimizer" (2023).
    """

    key: ClassVar = "cram"
    protocol: ClassVar = (
        "CrAM evaluates the gradient twice a step: call step(closure) with a closure that clears the gradients, "
        "evaluates the model, calls backward and returns the loss"
    )
    parts: ClassVar = ("inner", "model", "operator", "cramming")
    operator: Operator
    cramming: Cramming

    def __init__(self, inner: Optimizer, model: nn.Module, operator: Operator, cramming: Cramming) -> None:
        super().__init__(inner=inner, model=model, operator=operator, cramming=cramming)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Take one step.

        Args:
            closure: clears the gradients, evaluates the model, sets the gradients and returns the loss; called twice.

        Returns:
            The loss at the dense weights.

        Raises:
            ValueError: without a closure, or if the closure evaluates nothing or does not clear the gradients.
        """
        if closure is None:
            if not self.makes_state():
                raise ValueError(self.protocol)
            self.inner.step()
            return None
        loss = self.evaluated(closure)
        dense = self._set_aside()
        try:
            if dense:
                self._mix(dense, self._compressed(dense, closure))
                self._count(self.taken + 1)
            self.inner.step()
        finally:  # where the second pass fails, they may say why
            for p, grad in dense:
                p.grad = grad
        return loss

    def settings(self) -> list[str]:
        """Return what is compressed how, which must be alike on all processes."""
        return [repr(self.cramming), *settings_of(self.inner)]

    def _set_aside(self) -> list[tuple[Tensor, Tensor]]:
        """Take all gradients from their parameters: the second pass may write into what it finds."""
        dense = []
        for p in self.params():
            if p.grad is not None:
                dense.append((p, p.grad.clone()))  # it may be a part of a buffer, which the second pass fills again
                p.grad = None
        return dense

    def _compressed(self, dense: Sequence[tuple[Tensor, Tensor]], closure: Callable[[], float]) -> list[Tensor | None]:
        """Return the gradients of the kept atoms at the compressed weights."""
        with self.kept_aside():
            factor = self._factor([grad for _, grad in dense])
            for p, grad in dense:
                p.add_(grad * factor)
            gates = cut_in_place(self.operator, self.cramming.fraction(self.taken))
            with torch.enable_grad():
                closure()
            return [gates[p](p.grad) if p in gates and p.grad is not None else p.grad for p, _ in dense]

    def _factor(self, grads: Sequence[Tensor]) -> float | Tensor:
        if not self.cramming.normalised:
            return self.cramming.ascent
        norm = torch.nn.utils.get_total_norm([_values(grad) for grad in grads])
        return torch.where(norm > 0, self.cramming.ascent / norm, 0.0)

    def _mix(self, dense: Sequence[tuple[Tensor, Tensor]], compressed: Sequence[Tensor | None]) -> None:
        for (p, grad), other in zip(dense, compressed, strict=True):
            p.grad = _mixed(grad, torch.zeros_like(grad) if other is None else other, self.cramming.share)


def _mixed(grad: Tensor, other: Tensor, share: float) -> Tensor:
    """Return the mean of two gradients; those of sparse embeddings are sparse."""
    if grad.layout is torch.strided and other.layout is torch.strided:
        return torch.lerp(grad, other, share)  # of equal ends it returns the end, to the bit
    return grad * (1.0 - share) + other * share


def _values(grad: Tensor) -> Tensor:
    return grad if grad.layout is torch.strided else grad.coalesce().values()
