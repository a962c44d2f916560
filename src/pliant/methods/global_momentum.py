"""GlobalSparseMomentum: of all weights only the most important ones see the gradient (GSM)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from pliant.methods.around import Step, StepMap
from pliant.methods.targets import Target
from pliant.regions.gauges import TopK
from pliant.sharding import whole, whole_grad


@dataclass(frozen=True)
class GlobalSparseMomentum(StepMap):
    """Global sparse momentum SGD: active selection before the optimizer's step.

    Of the entries w of all targets together, those with the `active` largest |w g| keep their gradient g; the gradient
    of all others becomes zero. Around `SGD(momentum=beta, weight_decay=decay)` this is

        z  <-  beta * z + decay * w + [w among the largest |w g|] * g
        w  <-  w - lr * z

    so that weights which are never chosen decay to nearly zero by themselves, the faster the higher the momentum, and
    an ordinary magnitude cut then takes away little. What is no target keeps its gradient. |w g| is the first-order
    change of the loss if w is removed.

    Args:
        targets: the weights that compete.
        active: how many are chosen in a step: an int is a count, a float in (0, 1] a share of the entries.

    Raises:
        ValueError: if `active` is neither.

    Reference: Ding, Ding, Zhou, Guo, Han, Liu, "Global Sparse Momentum SGD for Pruning Very Deep Neural Networks"
    (2019); momentum 0.98, weight decay 5e-4 and a trained start there.
    """

    targets: tuple[Target, ...]
    active: int | float

    def __post_init__(self) -> None:
        TopK(self.active)

    def before(self, step: Step) -> None:
        moving = list(step.moving(self.targets))
        if not moving:
            return
        grads = [cast("Tensor", whole_grad(target.parameter)) for target in moving]
        weights = [whole(target.parameter).detach() for target in moving]
        scores = torch.cat([(w * grad).abs().flatten() for w, grad in zip(weights, grads, strict=True)])
        # By index and never by threshold: ties must not select more.
        chosen = scores.topk(int(TopK(self.active).at(len(scores)).k), sorted=False).indices
        masks = torch.zeros_like(scores, dtype=torch.bool).index_fill_(0, chosen, value=True)
        parts = masks.split([grad.numel() for grad in grads])
        for target, grad, part in zip(moving, grads, parts, strict=True):
            target.write_grad(torch.where(part.view(grad.shape), grad, 0.0))

    def after(self, step: Step) -> None:
        pass
