"""Networks, and gradients that change from step to step as those of a training run do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from pliant.models import create

IMAGE = 32
CLASSES = 10


@dataclass(frozen=True)
class Net:
    """A network for images of 32 x 32 pixels.

    Args:
        model: name in `pliant.models`.
        largest_batch: images that a training step can have without taking minutes on two cores.
        literal: whether to time the literal algorithms on it too, which take seconds to minutes a step.
        linear: whether most weights are in linear layers, which `Plan.for_filters` leaves free beside convolutions.
        options: what the model takes besides the sizes.
    """

    model: str
    largest_batch: int = 128
    literal: bool = True
    linear: bool = False
    options: dict[str, object] = field(default_factory=dict)

    def build(self, device: torch.device) -> nn.Module:
        """Return it with weights that are the same every time, without touching the global random state."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = create(self.model, num_classes=CLASSES, in_channels=3, image_size=IMAGE, **self.options)
        return model.to(device)


NETS = {
    "resnet-20": Net("resnet-20"),
    "resnet-18": Net("resnet-18"),
    "wide-resnet-28-10": Net("wide-resnet-28-10", largest_batch=16, literal=False),
    "vit": Net("vit", linear=True),
    "toy": Net("cnn-4", linear=True, options={"widths": (4, 4, 4, 8)}),
}


class Drift:
    """Gradients g of given shapes; each `move` makes them 0.9 g + noise, in place.

    Args:
        shapes: of the gradients.
        device: where they live.
        decay: the noise of a gradient (rows, columns) has standard deviation j ** -decay in column j, so that its
            singular values fall; 0: all alike, the hardest case for an oracle that looks for the largest.
    """

    def __init__(self, shapes: Sequence[Sequence[int]], device: torch.device, *, decay: float = 0.0) -> None:
        self._generator = torch.Generator(device).manual_seed(0)
        self._decay = decay
        self.gradients = [torch.zeros(tuple(shape), device=device) for shape in shapes]
        self.move()

    @staticmethod
    def of(model: nn.Module, device: torch.device) -> Drift:
        """Return gradients for the parameters of a model."""
        return Drift([p.shape for p in model.parameters()], device)

    def move(self) -> None:
        """Go on by one step."""
        for g in self.gradients:
            g.mul_(0.9).add_(self._noise(g))

    def _noise(self, like: Tensor) -> Tensor:
        noise = torch.randn(like.shape, generator=self._generator, device=like.device)
        if self._decay == 0.0:
            return noise
        return noise * torch.arange(1, like.shape[-1] + 1, device=like.device) ** -self._decay
