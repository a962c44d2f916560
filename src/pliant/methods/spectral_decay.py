"""SpectralDecay: decoupled decay of the nuclear norm."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch

from pliant.methods.around import Step, StepMap
from pliant.methods.targets import Target, stacks
from pliant.regions.orthogonal import polar
from pliant.regions.scaling import upcast


@dataclass(frozen=True)
class SpectralDecay(StepMap):
    """Decoupled spectral (nuclear) weight decay: every singular value loses the same amount, without any SVD.

    After the optimizer's step, for the matrices W = U S V^T of every target,

        W  <-  W - lr * weight * U V^T

    where U V^T, the polar factor and a subgradient of the nuclear norm at W, comes from products and Cholesky
    factorisations. Ordinary weight decay shrinks large singular values most; this one shrinks all alike, so that small
    ones come near zero. There they stay within lr * weight of it: a subgradient step gives small values and no exact
    zeros, which the proximal map does. Directions below a thousandth of the largest decay more slowly, those at
    rounding level not at all.

    Args:
        targets: the weights that decay.
        weight: of the nuclear norm, at least 0; the published runs of language models take 0.7 to 1 at Adam's rates.

    Raises:
        ValueError: if the weight is negative or not finite.

    Reference: "Spectral weight decay" (2026), with five Newton-Schulz iterations after the optimizer's step; the polar
    factor here is the converged one, see `pliant.regions.orthogonal`.
    """

    targets: tuple[Target, ...]
    weight: float

    def __post_init__(self) -> None:
        if not 0.0 <= self.weight < math.inf:
            raise ValueError(f"weight must be at least 0 and finite, found {self.weight!r}")

    def before(self, step: Step) -> None:
        pass

    def after(self, step: Step) -> None:
        for stack in stacks(step.moving(self.targets)):
            wide = replace(stack, matrices=upcast(stack.matrices))
            # Products of 16 bits, which a loop under autocast would ask for, find no polar factor.
            with torch.autocast(wide.matrices.device.type, enabled=False):
                factors = polar(wide.matrices)
            rates = wide.spread([step.lr(member.parameter) for member in wide.members])
            wide.write(wide.matrices - self.weight * rates * factors)
