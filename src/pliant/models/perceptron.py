"""perceptron: linear layers with ReLU between, as many as wanted."""

from __future__ import annotations

from collections import OrderedDict
from itertools import pairwise
from typing import TYPE_CHECKING, final

from torch import Tensor, nn

from pliant.models.checks import check_sizes, check_widths

if TYPE_CHECKING:
    from collections.abc import Sequence


@final
class Perceptron(nn.Module):
    """A perceptron on flattened images, or on features.

    Args:
        num_classes: outputs.
        in_channels: of the images; the number of features.
        image_size: in pixels; 1 for features.
        widths: of the hidden layers, at least one.

    Raises:
        ValueError: a size is out of its range.
    """

    def __init__(
        self, *, num_classes: int, in_channels: int, image_size: int, widths: Sequence[int] = (300, 100)
    ) -> None:
        super().__init__()
        check_sizes("perceptron", num_classes=num_classes, in_channels=in_channels, image_size=image_size)
        check_widths("perceptron", widths, layers=max(1, len(widths)))
        self.flatten = nn.Flatten()
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        for number, (before, after) in enumerate(pairwise((in_channels * image_size**2, *widths)), start=1):
            layers[f"fc{number}"] = nn.Linear(before, after)
            layers[f"relu{number}"] = nn.ReLU()
        self.hidden = nn.Sequential(layers)
        self.classifier = nn.Linear(widths[-1], num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Class scores ``(batch, num_classes)`` of images ``(batch, in_channels, height, width)``."""
        scores: Tensor = self.classifier(self.hidden(self.flatten(images)))
        return scores
